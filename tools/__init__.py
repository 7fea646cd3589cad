"""Programs for building and testing gitopsd; nothing here is part of the installed package."""
