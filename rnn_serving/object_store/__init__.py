"""Models in object stores: s3://, gs:// and every other scheme that fsspec has a back-end for.

store.py    a base path at a store: list its versions, read and write its objects
mirror.py   a local copy of the versions to serve, kept in step: servers load from it
cache.py    where the copies are, and which process may write there
upload.py   where exporters publish: a directory, or a base path at a store
"""
