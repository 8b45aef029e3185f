// The configuration: the stores of the http block, and the directives of a location.

#pragma once

#include "nginx/nginx.h"

#include "core/decision.h"
#include "core/digest.h"
#include "core/grpc.h"
#include "core/problem.h"
#include "http/metrics/counters.h"
#include "core/store.h"
#include "zone/quota_table.h"

extern "C" {
extern ngx_module_t ngx_http_idempotency_module;
}

namespace idempotency {

class ClaimIdSource;
class ErasureSegment;
class Maintenance;
class QuotaSegment;
class RedisConnectionShare;
class UnsentMemory;

// `idempotency_store NAME { ... }`
struct StoreSlot {
    ngx_str_t name;
    Store *store;
    size_t largest_value;  // in bytes: a larger value from the store is rejected
    Counters *counters;
    Maintenance *maintenance;           // set by create_maintenance
    bool is_embedded;                   // in shared memory of this nginx
    ngx_msec_t shortest_lease;          // a call to the store can take so long
    RedisConnectionShare *redis_share;  // null: it is not Redis
};

// A host name in a URL of a store that the system could not resolve.
struct UnresolvedName {
    ngx_str_t store;
    ngx_str_t server;
    ngx_str_t file;  // of the configuration
    ngx_uint_t line;
};

// A location with `idempotency_admin`.
struct AdminPage {
    void **location;  // the configurations of all modules
    bool is_guarded;  // `guarded`
    ngx_str_t file;   // of the configuration
    ngx_uint_t line;
};

// Called when nginx follows an `error_page` for `status`, before it changes the request.
using ErrorPageHandler = void (*)(ngx_http_request_t *r, ngx_uint_t status, bool is_named_location);

struct MainConfig {
    ngx_array_t stores;            // of StoreSlot *
    ngx_array_t unresolved_names;  // of UnresolvedName
    Digester *digester;
    ClaimIdSource *claim_ids;
    QuotaSegment *quota;           // null: there is no `idempotency_quota`
    ngx_array_t upstream_modules;  // of ngx_uint_t: their ctx_index
    ngx_int_t try_files;           // ctx_index of that module; -1: nginx does not have it
    ngx_int_t dav;                 // the same for ngx_http_dav_module
    ngx_array_t error_pages;       // of ngx_array_t *: each list of `error_page` (error_pages.h)
    ErrorPageHandler on_error_page;
    ngx_array_t admin_pages;      // of AdminPage
    ErasureSegment *erasures;     // null: there is no `idempotency_admin`
    size_t max_unsent;            // `idempotency_max_unsent`, in bytes
    size_t largest_body;          // the largest `idempotency_max_body` of the locations
    UnsentMemory *unsent_memory;  // null: no location has `idempotency`
    bool used;                    // a location has `idempotency`
    bool observes;                // a location has it with `observe`
};

// The source of the key: a request header, or a value with variables.
struct KeySource {
    ngx_str_t header;  // lower case; empty: use `value`
    ngx_http_complex_value_t *value;
};

// The values of `idempotency_scope`.
struct ScopeSource {
    ngx_array_t parts;  // of ngx_http_complex_value_t *; 1 to kMaxScopeParts
    bool any;           // a scope with one non-empty part is not empty
};

constexpr ngx_msec_t kDefaultTtl = 24 * 3600 * 1000;

enum class Conflict { reject, wait };
enum class StoreError { reject, pass };

// A method for which nginx has no bit is in `names`.
struct MethodSet {
    ngx_uint_t bits;
    ngx_array_t names;  // of ngx_str_t
};

// `idempotency_quota`
struct QuotaSource {
    ngx_http_complex_value_t *value;
    QuotaLimit limit;
    std::uint64_t number;  // of the directive: equal directives share their counts
};

// One `idempotency_answer`.
struct AnswerOverride {
    ngx_uint_t status;  // 0: not given
    const char *code;   // null: not given
};

// `idempotency_retriable`: status codes from 100 to 999, and gRPC statuses.
struct StatusSet {
    unsigned char bits[1000 / 8];
    std::uint32_t grpc;  // one bit for each gRPC status

    void add(ngx_uint_t status) { bits[status / 8] |= static_cast<unsigned char>(1 << status % 8); }
    bool has(ngx_uint_t status) const
    {
        return status < 1000 && (bits[status / 8] >> status % 8 & 1);
    }

    void add_grpc(int status) { grpc |= 1u << status; }
    bool has_grpc(int status) const
    {
        return status >= 0 && status < kGrpcStatuses && (grpc >> status & 1) != 0;
    }
};

// Directive functions of nginx and of this module set the members, so it must stay a plain
// struct.  An unset pointer is NGX_CONF_UNSET_PTR; null means `off` or `none`.  Times are in
// milliseconds, sizes in bytes.
struct LocationConfig {
    ngx_str_t store_name;  // `data` is null while unset; empty: off
    ngx_str_t store_file;
    ngx_uint_t store_line;
    ngx_flag_t required;
    ngx_flag_t observe;
    StoreSlot *store;  // null: off

    KeySource *key;
    MethodSet *methods;
    ScopeSource *scope;
    ngx_http_complex_value_t *fingerprint;
    ngx_flag_t fingerprint_body;
    ngx_msec_t ttl;                       // 24h where the first TIME has variables
    ngx_http_complex_value_t *ttl_value;  // the first TIME, if it has variables, or null
    TtlRule *ttl_rules;                   // `CODE=TIME`
    ngx_uint_t ttl_rule_count;
    ngx_msec_t lease;
    ngx_uint_t conflict;
    ngx_msec_t conflict_wait;
    ngx_uint_t unknown;
    ngx_msec_t unknown_hold;  // 0: as long as `ttl`
    ngx_msec_t keepalive_idle;
    StatusSet *retriable;
    size_t max_body;
    ngx_array_t *stream_types;  // of ngx_str_t; null: off
    ngx_msec_t stream_after;
    ngx_array_t *hidden_headers;  // of ngx_str_t, lower case
    ngx_uint_t store_error;
    ngx_array_t *bypass;
    QuotaSource *quota;         // null: off
    AnswerOverride *answers;    // kProblems of them; null: none
    ngx_str_t replayed_header;  // `data` is null while unset; empty: off
    ngx_str_t problem_base;

    // `idempotency_status` or `idempotency_admin`: the content handler (null: neither), and the
    // format of `idempotency_status`.  Only blocks within the location (`if`, `limit_except`)
    // inherit them.
    ngx_http_handler_pt page;
    ngx_uint_t status_format;
};

// Functions of nginx's ngx_http_module_t.
void *create_main_config(ngx_conf_t *cf);
void *create_location_config(ngx_conf_t *cf);
char *merge_location_config(ngx_conf_t *cf, void *parent, void *child);

// Null if there is no store of this name.
StoreSlot *find_store(MainConfig *main, const ngx_str_t *name);

// The module of this name (ngx_module_t::name), or null.
ngx_module_t *find_module(ngx_cycle_t *cycle, const char *name);

// Reads the block `idempotency_store NAME { ... }`: nginx's `set` callback.
char *store_block(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

inline LocationConfig *location_config(ngx_http_request_t *r)
{
    return static_cast<LocationConfig *>(
        ngx_http_get_module_loc_conf(r, ngx_http_idempotency_module));
}

// nginx's own configuration of the request's location.
inline const ngx_http_core_loc_conf_t &location_of(ngx_http_request_t *r)
{
    return *static_cast<ngx_http_core_loc_conf_t *>(
        ngx_http_get_module_loc_conf(r, ngx_http_core_module));
}

inline MainConfig *main_config(ngx_http_request_t *r)
{
    return static_cast<MainConfig *>(ngx_http_get_module_main_conf(r, ngx_http_idempotency_module));
}

// Whether `idempotency off` is written in the location, or inherited.
inline bool is_switched_off(const LocationConfig &conf)
{
    return conf.store_name.data != nullptr && conf.store_name.len == 0;
}

// Zeroed memory for `count` objects.  Null if there is no memory.
template <typename T>
T *allocate(ngx_pool_t *pool, std::size_t count = 1)
{
    return static_cast<T *>(ngx_pcalloc(pool, sizeof(T) * count));
}

}  // namespace idempotency
