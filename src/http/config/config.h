// What the configuration says: the stores, and what holds in a location.

#pragma once

#include "nginx/nginx.h"

#include "core/decision.h"
#include "core/digest.h"
#include "http/metrics/counters.h"
#include "core/store.h"

extern "C" {
extern ngx_module_t ngx_http_idempotency_module;
}

namespace idempotency {

class Maintenance;

// `idempotency_store NAME { ... }`
struct StoreSlot {
    ngx_str_t name;
    Store *store;
    size_t largest_value;  // what a request takes from the store at the most
    Counters *counters;
    Maintenance *maintenance;  // of the exchange layer (create_maintenance)
};

// A name in a store's URL that is not known yet.
struct UnknownName {
    ngx_str_t store;
    ngx_str_t server;
    ngx_str_t file;  // where it stands
    ngx_uint_t line;
};

struct MainConfig {
    ngx_array_t stores;         // of StoreSlot *
    ngx_array_t unknown_names;  // of UnknownName
    Digester *digester;
    ngx_array_t upstream_modules;  // of ngx_uint_t: where their location configurations are
    ngx_int_t try_files;           // where that module's are; -1: it is not there
    ngx_int_t dav;                 // the same
    bool used;                     // some location is covered
};

// Where a key comes from: a header, or a value that is made.
struct KeySource {
    ngx_str_t header;  // lower case; empty: `value`
    ngx_http_complex_value_t *value;
};

enum class Conflict { reject, wait };
enum class StoreError { reject, pass };

// A method that nginx has no bit for is known by its name.
struct MethodSet {
    ngx_uint_t bits;
    ngx_array_t names;  // of ngx_str_t
};

// Status codes, 100 to 999.
struct StatusSet {
    unsigned char bits[1000 / 8];

    void add(ngx_uint_t status) { bits[status / 8] |= static_cast<unsigned char>(1 << status % 8); }
    bool has(ngx_uint_t status) const
    {
        return status < 1000 && (bits[status / 8] >> status % 8 & 1);
    }
};

// Filled in by nginx's and this module's directive slots, so it stays plain.
// An unset pointer is NGX_CONF_UNSET_PTR; null is 'off' or 'none'.
struct LocationConfig {
    ngx_str_t store_name;  // `data` is null while unset; empty: off
    ngx_uint_t store_line;
    ngx_flag_t required;
    StoreSlot *store;  // null: off

    KeySource *key;
    MethodSet *methods;
    ngx_http_complex_value_t *scope;
    ngx_http_complex_value_t *fingerprint;
    ngx_flag_t fingerprint_body;
    ngx_msec_t ttl;
    ngx_msec_t lease;
    ngx_uint_t conflict;
    ngx_msec_t conflict_wait;
    ngx_uint_t unknown;
    StatusSet *retriable;
    size_t max_body;
    ngx_array_t *hidden_headers;  // of ngx_str_t, lower case
    ngx_uint_t store_error;
    ngx_array_t *bypass;
    ngx_str_t replayed_header;  // `data` is null while unset; empty: off
    ngx_str_t problem_base;
    ngx_uint_t status_format;  // of the page that the location is; not inherited
};

// nginx's callbacks
void *create_main_config(ngx_conf_t *cf);
void *create_location_config(ngx_conf_t *cf);
char *merge_location_config(ngx_conf_t *cf, void *parent, void *child);

StoreSlot *find_store(MainConfig *main, const ngx_str_t *name);

// nginx's module of this name, or null.
ngx_module_t *find_module(ngx_cycle_t *cycle, const char *name);

// The directive `idempotency_store`.
char *store_block(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

inline LocationConfig *location_config(ngx_http_request_t *r)
{
    return static_cast<LocationConfig *>(
        ngx_http_get_module_loc_conf(r, ngx_http_idempotency_module));
}

inline MainConfig *main_config(ngx_http_request_t *r)
{
    return static_cast<MainConfig *>(ngx_http_get_module_main_conf(r, ngx_http_idempotency_module));
}

template <typename T>
T *allocate(ngx_pool_t *pool, std::size_t count = 1)
{
    return static_cast<T *>(ngx_pcalloc(pool, sizeof(T) * count));
}

}  // namespace idempotency
