// The module: its directives, and the functions that nginx calls during configuration and
// in each process.

#include <new>

#include "core/claim_ids.h"
#include "http/admin/admin_page.h"
#include "http/admin/erasure.h"
#include "http/answer/capture.h"
#include "http/answer/early_hints.h"
#include "http/config/connection_limits.h"
#include "http/config/config.h"
#include "http/config/directives.h"
#include "http/config/error_pages.h"
#include "http/config/store_options.h"
#include "http/exchange/keepalive_idle.h"
#include "http/exchange/maintenance.h"
#include "http/exchange/redirect.h"
#include "http/exchange/request_end.h"
#include "http/exchange/unsent_memory.h"
#include "http/observe/filters.h"
#include "http/request/body_digest.h"
#include "http/request/gate.h"
#include "http/status/status_page.h"
#include "http/status/variables.h"

namespace idempotency {

namespace {

constexpr std::size_t kDefaultMaxUnsent = 128 * 1024 * 1024;

constexpr ngx_uint_t kEverywhere = NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF;

#define LOCATION_DIRECTIVE(name, arguments, setter, offset)                                        \
    {                                                                                              \
        ngx_string(name), kEverywhere | (arguments), setter, NGX_HTTP_LOC_CONF_OFFSET, offset,     \
            nullptr                                                                                \
    }

ngx_command_t directives[] = {
    {ngx_string("idempotency_store"), NGX_HTTP_MAIN_CONF | NGX_CONF_BLOCK | NGX_CONF_TAKE1,
     store_block, NGX_HTTP_MAIN_CONF_OFFSET, 0, nullptr},

    {ngx_string("idempotency_max_unsent"), NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE1, set_max_unsent,
     NGX_HTTP_MAIN_CONF_OFFSET, 0, nullptr},

    LOCATION_DIRECTIVE("idempotency", NGX_CONF_TAKE123, set_store, 0),
    LOCATION_DIRECTIVE("idempotency_key", NGX_CONF_TAKE1, set_key, 0),
    LOCATION_DIRECTIVE("idempotency_methods", NGX_CONF_1MORE, set_methods, 0),
    LOCATION_DIRECTIVE("idempotency_scope", NGX_CONF_1MORE, set_scope, 0),
    LOCATION_DIRECTIVE("idempotency_fingerprint", NGX_CONF_1MORE, set_fingerprint, 0),
    LOCATION_DIRECTIVE("idempotency_ttl", NGX_CONF_1MORE, set_ttl, 0),
    LOCATION_DIRECTIVE("idempotency_lease", NGX_CONF_TAKE1, set_time,
                       offsetof(LocationConfig, lease)),
    LOCATION_DIRECTIVE("idempotency_conflict", NGX_CONF_TAKE12, set_conflict, 0),
    LOCATION_DIRECTIVE("idempotency_unknown", NGX_CONF_TAKE12, set_unknown, 0),
    LOCATION_DIRECTIVE("idempotency_keepalive_idle", NGX_CONF_TAKE1, set_time,
                       offsetof(LocationConfig, keepalive_idle)),
    LOCATION_DIRECTIVE("idempotency_retriable", NGX_CONF_1MORE, set_retriable, 0),
    LOCATION_DIRECTIVE("idempotency_max_body", NGX_CONF_TAKE1, set_max_body, 0),
    LOCATION_DIRECTIVE("idempotency_stream", NGX_CONF_1MORE, set_stream, 0),
    LOCATION_DIRECTIVE("idempotency_hide_header", NGX_CONF_1MORE, set_hidden_headers, 0),
    LOCATION_DIRECTIVE("idempotency_store_error", NGX_CONF_TAKE1, set_store_error, 0),
    LOCATION_DIRECTIVE("idempotency_bypass", NGX_CONF_1MORE, set_bypass,
                       offsetof(LocationConfig, bypass)),
    LOCATION_DIRECTIVE("idempotency_quota", NGX_CONF_TAKE123, set_quota, 0),
    LOCATION_DIRECTIVE("idempotency_answer", NGX_CONF_TAKE23, set_answer, 0),
    LOCATION_DIRECTIVE("idempotency_replayed_header", NGX_CONF_TAKE1, set_replayed_header, 0),
    LOCATION_DIRECTIVE("idempotency_problem_base", NGX_CONF_TAKE1, set_problem_base, 0),

    {ngx_string("idempotency_status"), NGX_HTTP_LOC_CONF | NGX_CONF_NOARGS | NGX_CONF_TAKE1,
     set_status_page, NGX_HTTP_LOC_CONF_OFFSET, 0, nullptr},

    {ngx_string("idempotency_admin"), NGX_HTTP_LOC_CONF | NGX_CONF_NOARGS | NGX_CONF_TAKE1,
     set_admin_page, NGX_HTTP_LOC_CONF_OFFSET, 0, nullptr},

    ngx_null_command,
};

bool push_handler(ngx_http_core_main_conf_t *core, ngx_http_phases phase,
                  ngx_http_handler_pt handler)
{
    auto *slot = static_cast<ngx_http_handler_pt *>(ngx_array_push(&core->phases[phase].handlers));

    if (slot != nullptr) {
        *slot = handler;
    }

    return slot != nullptr;
}

// The PRECONTENT phase runs after all access checks, whatever `satisfy` is.  nginx runs the
// handlers of the array from the last to the first: so `on_request` runs before `mirror`
// and `try_files`, `on_request_after_try_files` after them.
ngx_int_t add_phase_handlers(ngx_conf_t *cf)
{
    auto *core = static_cast<ngx_http_core_main_conf_t *>(
        ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module));
    ngx_array_t *handlers = &core->phases[NGX_HTTP_PRECONTENT_PHASE].handlers;

    // not in the REWRITE phase: ngx_http_rewrite_handler has to be the first one there, or it
    // runs the directives of the server twice where no location matches
    if (!push_handler(core, NGX_HTTP_SERVER_REWRITE_PHASE, on_server_rewrite)
        || !push_handler(core, NGX_HTTP_PREACCESS_PHASE, on_preaccess)
        || !push_handler(core, NGX_HTTP_LOG_PHASE, on_log)
        || ngx_array_push_n(handlers, 2) == nullptr)
    {
        return NGX_ERROR;
    }

    auto *handler = static_cast<ngx_http_handler_pt *>(handlers->elts);

    ngx_memmove(handler + 1, handler, (handlers->nelts - 2) * sizeof(*handler));
    handler[0] = on_request_after_try_files;
    handler[handlers->nelts - 1] = on_request;

    // nginx runs those of the LOG phase from the first to the last
    handlers = &core->phases[NGX_HTTP_LOG_PHASE].handlers;
    handler = static_cast<ngx_http_handler_pt *>(handlers->elts);
    ngx_memmove(handler + 1, handler, (handlers->nelts - 1) * sizeof(*handler));
    handler[0] = on_log;
    return NGX_OK;
}

// The ctx_index of a module, which is the index of its location configurations; -1 if
// nginx does not have this module.
ngx_int_t find_context_index(ngx_conf_t *cf, const char *name)
{
    ngx_module_t *module = find_module(cf->cycle, name);

    return module != nullptr ? static_cast<ngx_int_t>(module->ctx_index) : -1;
}

ngx_int_t preconfiguration(ngx_conf_t *cf) { return add_variables(cf); }

// All locations are merged: the largest `idempotency_max_body` is known.
bool create_unsent_memory(ngx_conf_t *cf, MainConfig &main)
{
    std::size_t limit = main.max_unsent != NGX_CONF_UNSET_SIZE
                            ? main.max_unsent
                            : ngx_max(kDefaultMaxUnsent, main.largest_body);

    if (limit < main.largest_body) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"idempotency_max_unsent\" is %uz bytes, less than an "
                           "\"idempotency_max_body\" of %uz bytes: enlarge "
                           "\"idempotency_max_unsent\", or lower \"idempotency_max_body\"",
                           limit, main.largest_body);
        return false;
    }

    void *memory = ngx_palloc(cf->pool, sizeof(UnsentMemory));

    main.unsent_memory = memory != nullptr ? new (memory) UnsentMemory(limit) : nullptr;
    return memory != nullptr;
}

ngx_int_t postconfiguration(ngx_conf_t *cf)
{
    auto *main = static_cast<MainConfig *>(
        ngx_http_conf_get_module_main_conf(cf, ngx_http_idempotency_module));

    if (!check_unresolved_names(cf, *main) || !check_admin_pages(cf, *main)) {
        return NGX_ERROR;
    }

    auto **slots = static_cast<StoreSlot **>(main->stores.elts);

    for (ngx_uint_t i = 0; i < main->stores.nelts; i++) {
        if (!create_maintenance(cf, *slots[i])) {
            return NGX_ERROR;
        }
    }

    if (!main->used) {
        return NGX_OK;
    }

    if (!create_unsent_memory(cf, *main)) {
        return NGX_ERROR;
    }

    install_body_digest();
    install_capture();
    install_early_hints();

    if (main->observes) {
        install_observation();
    }

    watch_upstreams(cf);
    main->on_error_page = on_error_page;

    if (!watch_error_pages(cf, main->error_pages)) {
        return NGX_ERROR;
    }

    main->try_files = find_context_index(cf, "ngx_http_try_files_module");
    main->dav = find_context_index(cf, "ngx_http_dav_module");
    return add_phase_handlers(cf);
}

MainConfig *main_config_of(ngx_cycle_t *cycle)
{
    return static_cast<MainConfig *>(
        ngx_http_cycle_get_module_main_conf(cycle, ngx_http_idempotency_module));
}

ngx_int_t init_module(ngx_cycle_t *cycle)
{
    MainConfig *main = main_config_of(cycle);

    if (main != nullptr) {
        limit_redis_connections(cycle, *main);
    }

    return NGX_OK;
}

ngx_int_t init_process(ngx_cycle_t *cycle)
{
    MainConfig *main = main_config_of(cycle);

    // without an http block there is no configuration; the cache manager and the cache
    // loader (NGX_PROCESS_HELPER) process no requests
    if (main == nullptr || ngx_process == NGX_PROCESS_HELPER) {
        return NGX_OK;
    }

    if (!main->claim_ids->seed()
        || (main->unsent_memory != nullptr && !main->unsent_memory->open())) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "idempotency: OpenSSL has no random numbers (RAND_bytes)");
        return NGX_ERROR;
    }

    if (!start_keepalive_watch(cycle)) {
        return NGX_ERROR;
    }

    auto **slots = static_cast<StoreSlot **>(main->stores.elts);

    for (ngx_uint_t i = 0; i < main->stores.nelts; i++) {
        slots[i]->store->watch(slots[i]->maintenance);

        if (!slots[i]->store->open()) {
            return NGX_ERROR;
        }

        slots[i]->maintenance->open(*slots[i]->store);
    }

    return NGX_OK;
}

void exit_process(ngx_cycle_t *cycle)
{
    MainConfig *main = main_config_of(cycle);

    if (main == nullptr || ngx_process == NGX_PROCESS_HELPER) {
        return;
    }

    stop_erasures();

    auto **slots = static_cast<StoreSlot **>(main->stores.elts);

    for (ngx_uint_t i = 0; i < main->stores.nelts; i++) {
        settle_all_at_exit(*slots[i]);
        slots[i]->maintenance->close();
        slots[i]->store->close();
    }
}

ngx_http_module_t http_module = {
    preconfiguration,
    postconfiguration,
    create_main_config,
    nullptr,  // init main configuration
    create_upstream_config,
    nullptr,  // merge server configuration
    create_location_config,
    merge_location_config,
};

}  // namespace

}  // namespace idempotency

extern "C" {

ngx_module_t ngx_http_idempotency_module = {
    NGX_MODULE_V1,
    &idempotency::http_module,
    idempotency::directives,
    NGX_HTTP_MODULE,
    nullptr,  // init master
    idempotency::init_module,
    idempotency::init_process,
    nullptr,  // init thread
    nullptr,  // exit thread
    idempotency::exit_process,
    nullptr,  // exit master
    NGX_MODULE_V1_PADDING,
};
}
