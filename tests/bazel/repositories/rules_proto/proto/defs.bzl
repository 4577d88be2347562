"""The protocol buffer rules under the names that Bazel's own tools load: each is Bazel 4's native rule."""

proto_lang_toolchain = native.proto_lang_toolchain
proto_library = native.proto_library
