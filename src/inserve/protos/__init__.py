"""The messages of TensorFlow Serving, true names and numbers, in a descriptor pool of our own.

``definitions/`` holds the ``.proto`` sources; ``scripts/generate_protos.py`` turns them into
``descriptors.binpb`` and ``messages.pyi``. Nothing is registered in protobuf's default pool, so
``tensorflow`` and ``tensorflow_serving`` may be imported before or after.
"""
