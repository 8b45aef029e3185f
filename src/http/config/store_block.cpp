// The block `idempotency_store NAME { ... }`.

#include "http/config/arguments.h"
#include "http/config/module_order.h"
#include "http/config/store_options.h"

namespace idempotency {

namespace {

// nginx's cf->handler: called for each directive of the block.
char *read_directive(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    return read_store_directive(cf, *static_cast<StoreOptions *>(data));
}

// The metrics have the name: neither JSON nor Prometheus' format may have bytes that are no UTF-8.
bool is_text(const ngx_str_t &name)
{
    u_char *p = name.data;
    u_char *end = name.data + name.len;

    while (p < end) {
        if (*p < 0x80) {
            if (*p < ' ' || *p == 0x7f) {
                return false;
            }

            p++;
            continue;
        }

        std::uint32_t character = ngx_utf8_decode(&p, static_cast<size_t>(end - p));

        if (character > 0x10ffff || (character >= 0xd800 && character <= 0xdfff)) {
            return false;
        }
    }

    return true;
}

bool is_valid_name(const ngx_str_t &name)
{
    return name.len > 0 && view(name) != "off" && is_text(name);
}

StoreSlot *add_slot(ngx_conf_t *cf, MainConfig *main, const StoreOptions &options, Store *store)
{
    const ngx_str_t &name = options.name;
    auto *slot = allocate<StoreSlot>(cf->pool);
    auto **item = static_cast<StoreSlot **>(ngx_array_push(&main->stores));
    Counters *counters = Counters::create(cf, name, &ngx_http_idempotency_module);

    if (slot == nullptr || item == nullptr || counters == nullptr) {
        return nullptr;
    }

    slot->name = name;
    slot->store = store;
    slot->counters = counters;
    slot->is_embedded = options.memory != 0;
    slot->shortest_lease = options.shortest_lease;
    slot->redis_share = options.redis_share;
    *item = slot;
    return slot;
}

}  // namespace

char *store_block(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *main = static_cast<MainConfig *>(data);
    StoreOptions options{};

    move_behind_other_filters(cf->cycle);

    options.name = arguments(cf)[1];
    options.database = -1;
    options.master_ssl = NGX_CONF_UNSET;

    if (ngx_array_init(&options.urls, cf->temp_pool, 1, sizeof(ngx_str_t)) != NGX_OK
        || ngx_array_init(&options.encryption_keys, cf->temp_pool, 1, sizeof(ngx_str_t)) != NGX_OK)
    {
        return failed();
    }

    if (!is_valid_name(options.name)) {
        return reject_argument(cf, 1,
                               "it must be a name other than \"off\", in UTF-8 and without "
                               "control characters");
    }

    if (find_store(main, &options.name) != nullptr) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "duplicate store \"%V\" in \"idempotency_store\": each store must have "
                           "a different name",
                           &options.name);
        return failed();
    }

    ngx_conf_t saved = *cf;

    cf->handler = read_directive;
    cf->handler_conf = reinterpret_cast<char *>(&options);

    char *result = ngx_conf_parse(cf, nullptr);

    *cf = saved;

    if (result != NGX_CONF_OK) {
        return result;
    }

    Store *store = create_store(cf, options);

    return store != nullptr && add_slot(cf, main, options, store) != nullptr ? NGX_CONF_OK
                                                                             : failed();
}

}  // namespace idempotency
