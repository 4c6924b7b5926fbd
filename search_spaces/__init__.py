"""Search spaces, one file each: an ablation offers `variants()`, the reference first, each a dict of the settings that differ from the defaults."""
