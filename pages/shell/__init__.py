"""Parts of every page: data source, links, layout, downloads."""
