
MODULE_BUILD_DEPENDS_idempotency=g++ hiredis-dev libdeflate-dev

.PHONY: prerequisites-for-module-idempotency
prerequisites-for-module-idempotency:
