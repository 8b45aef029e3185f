// `encryption_key_file FILE ...`: reads the keys, and creates a store that seals records.

#include <new>

#include "core/key_file.h"
#include "core/key_ring.h"
#include "http/config/secret_file.h"
#include "http/config/store_options.h"
#include "nginx/log_limit.h"
#include "nginx/secret_memory.h"
#include "store/sealed_store.h"

namespace idempotency {

namespace {

// The sealed store and its keys, in the pool of the configuration.
struct Sealing final : SealedStore::Events {
    Sealing(const ngx_str_t &name, Store &inner) : name(name), store(inner, keys, *this) {}

    void on_open_failed(const KeyId &stored_id, const char *why) override
    {
        char id[kHexLength];
        LogLimit::Line line = limits.of(why).next(NGX_LOG_ERR);

        write_hex(stored_id, id);
        ngx_log_error(
            line.level, ngx_cycle->log, 0,
            "idempotency: the value of key %*s in store \"%V\" %s: the request is "
            "refused; add the key with which it was sealed to \"encryption_key_file\", "
            "or delete the value with \"idempotency forget --force\" (%ui more such requests "
            "since the last message)",
            kHexLength, id, &name, why, line.suppressed);
    }

    ngx_str_t name;
    LogLimits limits;
    KeyRing keys;
    SealedStore store;
};

void destroy(void *sealing) { static_cast<Sealing *>(sealing)->~Sealing(); }

Sealing *create(ngx_pool_t *pool, const ngx_str_t &name, Store &inner)
{
    void *memory = allocate_secret(pool, sizeof(Sealing));
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(pool, 0);

    if (memory == nullptr || cleanup == nullptr) {
        return nullptr;
    }

    cleanup->data = new (memory) Sealing(name, inner);
    cleanup->handler = destroy;
    return static_cast<Sealing *>(cleanup->data);
}

const ngx_str_t kDirective = ngx_string("encryption_key_file");

bool reject_key_file(ngx_conf_t *cf, const ngx_str_t &file, const char *expected)
{
    (void) reject_value(cf, &kDirective, &file, expected);
    return false;
}

// False if the file can't be read or has no valid key; the error is logged.
bool read_key(ngx_conf_t *cf, const ngx_str_t &file, Secret &secret)
{
    u_char buffer[256];  // larger than any valid key file
    size_t length = read_secret_file(cf, kDirective, file, buffer, sizeof(buffer),
                                     "a key: \"openssl rand -hex 32\" makes one");

    if (length == 0) {
        return false;
    }

    const char *fault = parse_key_file({reinterpret_cast<char *>(buffer), length}, secret);

    ngx_explicit_memzero(buffer, sizeof(buffer));

    return fault == nullptr || reject_key_file(cf, file, fault);
}

static_assert(kMaxSealingKeys >= NGX_CONF_MAX_ARGS,
              "a directive can't have more keys than a key ring can hold");

bool add_key(ngx_conf_t *cf, KeyRing &keys, const ngx_str_t &file)
{
    bool is_off = view(file) == "off";
    Secret secret;

    if (!is_off && !read_key(cf, file, secret)) {
        return false;
    }

    switch (is_off ? keys.add_plain() : keys.add(secret)) {
    case KeyRing::AddResult::added:
        return true;
    case KeyRing::AddResult::duplicate:
        return reject_key_file(cf, file, "it is the same key as an earlier one");
    case KeyRing::AddResult::too_many:
    case KeyRing::AddResult::failed:
        break;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\" can't use \"%V\": OpenSSL failed", &kDirective,
                       &file);
    return false;
}

}  // namespace

Store *seal_store(ngx_conf_t *cf, const StoreOptions &options, Store &store)
{
    Sealing *sealing = create(cf->pool, options.name, store);
    auto *files = static_cast<ngx_str_t *>(options.encryption_keys.elts);

    for (ngx_uint_t i = 0; sealing != nullptr && i < options.encryption_keys.nelts; i++) {
        if (!add_key(cf, sealing->keys, files[i])) {
            return nullptr;
        }
    }

    return sealing != nullptr ? &sealing->store : nullptr;
}

}  // namespace idempotency
