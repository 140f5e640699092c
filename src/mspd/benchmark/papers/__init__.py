"""The tables and figures of papers, one folder a paper, measured by the benchmark."""
