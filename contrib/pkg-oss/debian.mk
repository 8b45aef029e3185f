
MODULE_BUILD_DEPENDS_idempotency=,g++,libhiredis-dev,libdeflate-dev
