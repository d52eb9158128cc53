"""The store checks itself: ``store`` over ``group`` over ``file``, into ``findings``."""
