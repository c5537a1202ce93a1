"""Experiments on recurrent networks, and all that is not pure: flags, files, pages."""
