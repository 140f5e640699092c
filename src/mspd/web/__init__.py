"""The page and its HTTP API (extra `web`): the same protector and verifier, called from a browser.

Pictures stay in memory for the time of one request; nothing is written and nothing is kept.
"""

from mspd.web.app import create_app, serve
from mspd.web.door import Limits

__all__ = ["Limits", "create_app", "serve"]
