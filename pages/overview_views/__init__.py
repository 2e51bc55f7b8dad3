"""Parts of the Overview page: a sentence that is routed already, and the four questions."""
