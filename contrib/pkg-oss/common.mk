# The part of Makefile.module-idempotency that is the same for deb, rpm and apk.
MODULES+=	idempotency

MODULE_SUMMARY_idempotency=	3rd-party idempotency dynamic module

MODULE_CONTRIB_DEPS_idempotency=	ngx_http_idempotency_module

include $(foreach dep,$(MODULE_CONTRIB_DEPS_idempotency),$(CONTRIB)/src/$(dep)/version)

MODULE_VERSION_idempotency=	$(NGX_HTTP_IDEMPOTENCY_MODULE_VERSION)
MODULE_RELEASE_idempotency=	1

MODULE_VERSION_PREFIX_idempotency=$(MODULE_TARGET_PREFIX)

MODULE_SOURCES_idempotency=	ngx_http_idempotency_module-$(NGX_HTTP_IDEMPOTENCY_MODULE_VERSION).tar.gz

MODULE_CONFARGS_idempotency=	--add-dynamic-module=$(MODSRC_PREFIX)ngx_http_idempotency_module-$(NGX_HTTP_IDEMPOTENCY_MODULE_VERSION)

define MODULE_POST_idempotency
cat <<BANNER
----------------------------------------------------------------------

The $(MODULE_SUMMARY_idempotency) for $(MODULE_SUMMARY_PREFIX) has been installed.
To enable this module, add the following to /etc/nginx/nginx.conf
and reload nginx:

    load_module modules/ngx_http_idempotency_module.so;

----------------------------------------------------------------------
BANNER
endef
export MODULE_POST_idempotency
