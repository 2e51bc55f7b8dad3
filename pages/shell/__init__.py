"""What every page shares: data source, links, layout, downloads."""
