"""What asv measures (asv.conf.json), and scripts that compare and inspect."""
