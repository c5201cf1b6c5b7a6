"""TensorFlow's C API through cffi; nothing above this folder holds a pointer.

Importing any module here opens nothing; ``library.load_library`` does, once. The functions for the rest
of inserve are ``load_saved_model.load_saved_model``, ``devices.list_devices``,
``custom_ops.load_custom_ops`` and ``log.disable_capture``; the Protocols are in ``interface``.
"""
