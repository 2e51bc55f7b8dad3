"""The page as a browser sees it: starts, switches of pages, reruns."""
