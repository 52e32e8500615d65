"""Speech recognition: spoken digits and commands become words."""
