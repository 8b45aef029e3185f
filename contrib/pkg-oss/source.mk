# ngx_http_idempotency_module

include $(dir $(abspath $(lastword $(MAKEFILE_LIST))))/version

PKGS += ngx_http_idempotency_module

# contrib/pkg-oss/install of the module writes it
$(TARBALLS)/ngx_http_idempotency_module-$(NGX_HTTP_IDEMPOTENCY_MODULE_VERSION).tar.gz:
	@echo "$@ is missing" >&2; false

.sum-ngx_http_idempotency_module: ngx_http_idempotency_module-$(NGX_HTTP_IDEMPOTENCY_MODULE_VERSION).tar.gz

ngx_http_idempotency_module: ngx_http_idempotency_module-$(NGX_HTTP_IDEMPOTENCY_MODULE_VERSION).tar.gz .sum-ngx_http_idempotency_module
	$(UNPACK)
	$(MOVE)

.ngx_http_idempotency_module: ngx_http_idempotency_module
	touch $@
