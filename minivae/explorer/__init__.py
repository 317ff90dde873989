"""The explorer: a model as one page that opens anywhere. contents.py gathers, page.py writes, the .js files are the page."""
