#include "http/config/config.h"

#include <cstring>
#include <new>

#include "core/claim_ids.h"
#include "http/config/arguments.h"
#include "http/config/error_pages.h"
#include "http/config/upstream_modules.h"
#include "http/config/warnings.h"

namespace idempotency {

namespace {

constexpr ngx_msec_t kDefaultLease = 30 * 1000;
constexpr ngx_msec_t kDefaultKeepaliveIdle = 2 * 1000;
constexpr size_t kDefaultMaxBody = 1024 * 1024;
constexpr ngx_msec_t kDefaultStreamAfter = 60 * 1000;

constexpr ngx_uint_t kDefaultMethods =
    NGX_HTTP_POST | NGX_HTTP_PUT | NGX_HTTP_PATCH | NGX_HTTP_DELETE;
constexpr const char *kDefaultScope[] = {"$http_authorization", "$http_x_api_key"};
constexpr ngx_uint_t kDefaultRetriable[] = {401, 403, 408, 425, 429, 503};
constexpr const char *kDefaultRetriableGrpc[] = {"UNAUTHENTICATED", "PERMISSION_DENIED",
                                                 "RESOURCE_EXHAUSTED", "UNAVAILABLE"};
constexpr const char *kDefaultStreamTypes[] = {"text/event-stream", "application/x-ndjson",
                                               "application/jsonl"};

void destroy_digester(void *data) { static_cast<Digester *>(data)->~Digester(); }

Digester *create_digester(ngx_pool_t *pool)
{
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(pool, sizeof(Digester));

    if (cleanup == nullptr) {
        return nullptr;
    }

    Digester *digester = new (cleanup->data) Digester;

    cleanup->handler = destroy_digester;
    return digester->usable() ? digester : nullptr;
}

bool merge_key(ngx_conf_t *cf, KeySource *parent, KeySource *&child)
{
    ngx_conf_merge_ptr_value(child, parent, nullptr);

    if (child == nullptr) {
        child = allocate<KeySource>(cf->pool);

        if (child == nullptr) {
            return false;
        }

        ngx_str_set(&child->header, "idempotency-key");
    }

    return true;
}

bool merge_methods(ngx_conf_t *cf, MethodSet *parent, MethodSet *&child)
{
    ngx_conf_merge_ptr_value(child, parent, nullptr);

    if (child == nullptr) {
        child = allocate<MethodSet>(cf->pool);

        if (child == nullptr) {
            return false;
        }

        child->bits = kDefaultMethods;
    }

    return true;
}

bool merge_scope(ngx_conf_t *cf, ScopeSource *parent, ScopeSource *&child)
{
    if (child != NGX_CONF_UNSET_PTR) {
        return true;
    }

    if (parent != NGX_CONF_UNSET_PTR) {
        child = parent;
        return true;
    }

    child = create_scope(cf->pool);

    if (child == nullptr) {
        return false;
    }

    for (const char *variable : kDefaultScope) {
        ngx_str_t text = to_ngx(variable);

        if (!add_scope_part(*child, compile_value(cf, &text))) {
            return false;
        }
    }

    child->any = true;
    return true;
}

bool merge_retriable(ngx_conf_t *cf, StatusSet *parent, StatusSet *&child)
{
    ngx_conf_merge_ptr_value(child, parent, nullptr);

    if (child == nullptr) {
        child = allocate<StatusSet>(cf->pool);

        if (child == nullptr) {
            return false;
        }

        for (ngx_uint_t status : kDefaultRetriable) {
            child->add(status);
        }

        for (const char *name : kDefaultRetriableGrpc) {
            child->add_grpc(grpc_status_of_name(name));
        }
    }

    return true;
}

// The types and `after` are inherited together.
bool merge_stream(ngx_conf_t *cf, const LocationConfig &parent, LocationConfig &child)
{
    if (child.stream_types == NGX_CONF_UNSET_PTR) {
        child.stream_types = parent.stream_types;
        child.stream_after = parent.stream_after;
    }

    ngx_conf_init_msec_value(child.stream_after, kDefaultStreamAfter);

    if (child.stream_types != NGX_CONF_UNSET_PTR) {
        return true;
    }

    child.stream_types = ngx_array_create(cf->pool, 3, sizeof(ngx_str_t));

    if (child.stream_types == nullptr) {
        return false;
    }

    for (const char *type : kDefaultStreamTypes) {
        auto *item = static_cast<ngx_str_t *>(ngx_array_push(child.stream_types));

        if (item == nullptr) {
            return false;
        }

        *item = to_ngx(type);
    }

    return true;
}

bool merge_value(ngx_conf_t *cf, ngx_http_complex_value_t *parent, ngx_http_complex_value_t *&child,
                 const char *default_text)
{
    if (child == NGX_CONF_UNSET_PTR) {
        ngx_str_t text = to_ngx(default_text);

        child = parent != NGX_CONF_UNSET_PTR ? parent : compile_value(cf, &text);
        return parent != NGX_CONF_UNSET_PTR || child != nullptr;
    }

    return true;
}

// A store may be defined after the location that uses it, so the name is looked up when the
// whole http block has been read.
bool find_used_store(ngx_conf_t *cf, LocationConfig *conf)
{
    if (conf->store_name.len == 0) {
        return true;
    }

    auto *main = static_cast<MainConfig *>(
        ngx_http_conf_get_module_main_conf(cf, ngx_http_idempotency_module));

    conf->store = find_store(main, &conf->store_name);

    if (conf->store == nullptr) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "unknown store \"%V\" in \"idempotency\" in %V:%ui: define it with "
                      "\"idempotency_store %V { ... }\" in the http block",
                      &conf->store_name, &conf->store_file, conf->store_line, &conf->store_name);
        return false;
    }

    main->used = true;
    main->observes |= conf->observe != 0;
    return true;
}

// A claim must not expire before the reply to the claim can be there.
bool check_lease(ngx_conf_t *cf, const LocationConfig *conf)
{
    if (conf->store == nullptr || conf->lease >= conf->store->shortest_lease) {
        return true;
    }

    ngx_log_error(
        NGX_LOG_EMERG, cf->log, 0,
        "\"idempotency_lease\" of %Mms is too short for store \"%V\" of \"idempotency\" in "
        "%V:%ui: it must be at least as long as \"connect_timeout\" and \"timeout\" together, %Mms",
        conf->lease, &conf->store->name, &conf->store_file, conf->store_line,
        conf->store->shortest_lease);
    return false;
}

// The limit of a value is generous: a response may have been kept while `idempotency_max_body`
// was larger.
void set_size_limits(ngx_conf_t *cf, LocationConfig *conf)
{
    constexpr size_t minimum = 64 * 1024 * 1024;
    auto *main = static_cast<MainConfig *>(
        ngx_http_conf_get_module_main_conf(cf, ngx_http_idempotency_module));

    if (conf->store != nullptr) {
        size_t &largest = conf->store->largest_value;

        largest = ngx_max(largest, ngx_max(minimum, 4 * conf->max_body));
        main->largest_body = ngx_max(main->largest_body, conf->max_body);
    }
}

// A block within the location of a page, without a content handler of its own, is a part of it.
// In `limit_except` nginx does not call the content handler of the location.
void inherit_page(ngx_conf_t *cf, const LocationConfig &prev, LocationConfig &conf)
{
    auto *core = static_cast<ngx_http_core_loc_conf_t *>(
        ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module));

    if (!core->noname || core->handler != nullptr || prev.page == nullptr) {
        return;
    }

    conf.page = prev.page;
    conf.status_format = prev.status_format;

    if (core->lmt_excpt) {
        core->handler = conf.page;
    }
}

}  // namespace

void *create_main_config(ngx_conf_t *cf)
{
    auto *main = allocate<MainConfig>(cf->pool);

    if (main == nullptr || ngx_array_init(&main->stores, cf->pool, 2, sizeof(StoreSlot *)) != NGX_OK
        || ngx_array_init(&main->unresolved_names, cf->pool, 1, sizeof(UnresolvedName)) != NGX_OK)
    {
        return nullptr;
    }

    void *claim_ids = ngx_palloc(cf->pool, sizeof(ClaimIdSource));

    main->digester = create_digester(cf->pool);

    if (claim_ids == nullptr || main->digester == nullptr
        || !find_upstream_modules(cf, main->upstream_modules)
        || ngx_array_init(&main->error_pages, cf->pool, 4, sizeof(ngx_array_t *)) != NGX_OK
        || ngx_array_init(&main->admin_pages, cf->pool, 1, sizeof(AdminPage)) != NGX_OK)
    {
        return nullptr;
    }

    main->max_unsent = NGX_CONF_UNSET_SIZE;
    main->claim_ids = new (claim_ids) ClaimIdSource;
    return main;
}

void *create_location_config(ngx_conf_t *cf)
{
    auto *conf = allocate<LocationConfig>(cf->pool);

    if (conf == nullptr) {
        return nullptr;
    }

    // zeroed by ngx_pcalloc: store_name, store, store_file, store_line, ttl_value, ttl_rules,
    // ttl_rule_count, replayed_header, problem_base, page
    conf->required = NGX_CONF_UNSET;
    conf->observe = NGX_CONF_UNSET;
    conf->key = static_cast<KeySource *>(NGX_CONF_UNSET_PTR);
    conf->methods = static_cast<MethodSet *>(NGX_CONF_UNSET_PTR);
    conf->scope = static_cast<ScopeSource *>(NGX_CONF_UNSET_PTR);
    conf->fingerprint = static_cast<ngx_http_complex_value_t *>(NGX_CONF_UNSET_PTR);
    conf->fingerprint_body = NGX_CONF_UNSET;
    conf->ttl = NGX_CONF_UNSET_MSEC;
    conf->lease = NGX_CONF_UNSET_MSEC;
    conf->conflict = NGX_CONF_UNSET_UINT;
    conf->conflict_wait = NGX_CONF_UNSET_MSEC;
    conf->unknown = NGX_CONF_UNSET_UINT;
    conf->unknown_hold = NGX_CONF_UNSET_MSEC;
    conf->keepalive_idle = NGX_CONF_UNSET_MSEC;
    conf->retriable = static_cast<StatusSet *>(NGX_CONF_UNSET_PTR);
    conf->max_body = NGX_CONF_UNSET_SIZE;
    conf->stream_after = NGX_CONF_UNSET_MSEC;
    conf->stream_types = static_cast<ngx_array_t *>(NGX_CONF_UNSET_PTR);
    conf->hidden_headers = static_cast<ngx_array_t *>(NGX_CONF_UNSET_PTR);
    conf->store_error = NGX_CONF_UNSET_UINT;
    conf->bypass = static_cast<ngx_array_t *>(NGX_CONF_UNSET_PTR);
    conf->quota = static_cast<QuotaSource *>(NGX_CONF_UNSET_PTR);
    conf->answers = static_cast<AnswerOverride *>(NGX_CONF_UNSET_PTR);
    conf->status_format = NGX_CONF_UNSET_UINT;
    return conf;
}

char *merge_location_config(ngx_conf_t *cf, void *parent, void *child)
{
    auto *prev = static_cast<LocationConfig *>(parent);
    auto *conf = static_cast<LocationConfig *>(child);
    auto *main = static_cast<MainConfig *>(
        ngx_http_conf_get_module_main_conf(cf, ngx_http_idempotency_module));

    learn_upstream_handler(cf, main->upstream_modules);

    if (!collect_error_pages(cf, main->error_pages)) {
        return static_cast<char *>(NGX_CONF_ERROR);
    }

    bool own_store = conf->store_name.data != nullptr;

    if (!own_store) {
        conf->store_name = prev->store_name;
        conf->store_file = prev->store_file;
        conf->store_line = prev->store_line;
        conf->required = prev->required;
        conf->observe = prev->observe;
    }

    ngx_conf_merge_value(conf->required, prev->required, 0);
    ngx_conf_merge_value(conf->observe, prev->observe, 0);
    ngx_conf_merge_value(conf->fingerprint_body, prev->fingerprint_body, 1);

    // all arguments are inherited together
    if (conf->ttl == NGX_CONF_UNSET_MSEC) {
        conf->ttl = prev->ttl;
        conf->ttl_value = prev->ttl_value;
        conf->ttl_rules = prev->ttl_rules;
        conf->ttl_rule_count = prev->ttl_rule_count;
    }

    ngx_conf_init_msec_value(conf->ttl, kDefaultTtl);
    ngx_conf_merge_msec_value(conf->lease, prev->lease, kDefaultLease);
    ngx_conf_merge_uint_value(conf->conflict, prev->conflict,
                              static_cast<ngx_uint_t>(Conflict::reject));
    ngx_conf_merge_msec_value(conf->conflict_wait, prev->conflict_wait, 0);
    // the policy and its TIME are inherited together
    if (conf->unknown == NGX_CONF_UNSET_UINT) {
        conf->unknown_hold = prev->unknown_hold;
    }

    ngx_conf_merge_uint_value(conf->unknown, prev->unknown,
                              static_cast<ngx_uint_t>(UnknownPolicy::hold));
    ngx_conf_init_msec_value(conf->unknown_hold, 0);
    ngx_conf_merge_msec_value(conf->keepalive_idle, prev->keepalive_idle, kDefaultKeepaliveIdle);
    ngx_conf_merge_size_value(conf->max_body, prev->max_body, kDefaultMaxBody);
    ngx_conf_merge_ptr_value(conf->hidden_headers, prev->hidden_headers, nullptr);
    ngx_conf_merge_uint_value(conf->store_error, prev->store_error,
                              static_cast<ngx_uint_t>(StoreError::reject));
    ngx_conf_merge_ptr_value(conf->quota, prev->quota, nullptr);
    ngx_conf_merge_ptr_value(conf->answers, prev->answers, nullptr);
    ngx_conf_merge_ptr_value(conf->bypass, prev->bypass, nullptr);
    ngx_conf_merge_str_value(conf->replayed_header, prev->replayed_header, "Idempotent-Replayed");
    ngx_conf_merge_str_value(conf->problem_base, prev->problem_base, "");

    if (!merge_key(cf, prev->key, conf->key) || !merge_methods(cf, prev->methods, conf->methods)
        || !merge_retriable(cf, prev->retriable, conf->retriable)
        || !merge_scope(cf, prev->scope, conf->scope) || !merge_stream(cf, *prev, *conf)
        || !merge_value(cf, prev->fingerprint, conf->fingerprint,
                        "$request_method $host$request_uri")
        || !find_used_store(cf, conf) || !check_lease(cf, conf))
    {
        return static_cast<char *>(NGX_CONF_ERROR);
    }

    set_size_limits(cf, conf);
    warn_about_location(cf, *conf, own_store);

    inherit_page(cf, *prev, *conf);

    // responses of the status page and of the admin page are not kept
    if (conf->page != nullptr) {
        conf->store = nullptr;
    }

    return NGX_CONF_OK;
}

ngx_module_t *find_module(ngx_cycle_t *cycle, const char *name)
{
    for (ngx_module_t **m = cycle->modules; *m != nullptr; m++) {
        if (std::strcmp((*m)->name, name) == 0) {
            return *m;
        }
    }

    return nullptr;
}

StoreSlot *find_store(MainConfig *main, const ngx_str_t *name)
{
    auto **slots = static_cast<StoreSlot **>(main->stores.elts);

    for (ngx_uint_t i = 0; i < main->stores.nelts; i++) {
        if (view(slots[i]->name) == view(*name)) {
            return slots[i];
        }
    }

    return nullptr;
}

}  // namespace idempotency
