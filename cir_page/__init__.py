"""``basicsr page``: a local page on which pictures are restored, and seen before and after."""
