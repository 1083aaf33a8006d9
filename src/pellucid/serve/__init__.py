"""One server for many clients: the APIs that programs speak, over one engine a model.

``http/`` is what any request meets (bounds, keys, errors, streams), ``work/`` what is asked and who answers it,
``apis/`` one file a dialect: each turns a body into an ``Ask`` and pieces of answers into its own JSON.
"""
