"""Labelled image sets: parquet files in the layout of the Hugging Face hub, or folders with one sub-folder a class."""

from mspd.data.sets import ImageSet, load, records

__all__ = ["ImageSet", "load", "records"]
