"""Numbers in words from one language to another, and dates: an encoder-decoder with attention."""
