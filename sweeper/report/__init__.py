"""The report of a sweep: what the tables say, as figures, tables and claims in one file that opens offline.

`assemble.py` and its neighbours turn rows into `content.py`'s plain objects (numbers first, nothing drawn), `drawing.py` draws them, `page.py` writes
the page, `export.py` the CSV, LaTeX and figure files beside it. A search has its own sections and charts (`search_report.py`).
"""
