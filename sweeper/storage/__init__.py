"""Where results lie: `store.py`, what any place must do; `local.py`, a folder; `objects.py`, a bucket; `folder.py`, what lies where in a root."""

from sweeper.storage.folder import MARKER, Folder, Root, is_root, open_root, open_store
from sweeper.storage.store import Stat, Store

__all__ = ["MARKER", "Folder", "Root", "Stat", "Store", "is_root", "open_root", "open_store"]
