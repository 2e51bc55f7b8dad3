"""What the pages share: choices, data source, layout, downloads, traces. No maths."""
