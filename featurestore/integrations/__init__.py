"""Optional packages, one file each; nothing here is imported until it is asked for.

What stands below finds an integration by its name (:func:`featurestore.models.formats.adapter`), so
that a store without the package works, and one that needs it says which extra to install.
"""
