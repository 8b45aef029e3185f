// Combines the directives of a Redis store with the values in its URLs.

#include "http/config/store_options.h"

#include <new>

#include "nginx/resolver.h"

namespace idempotency {

namespace {

bool reject(ngx_conf_t *cf, const StoreOptions &given, const char *reason)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "store \"%V\": %s", &given.name, reason);
    return false;
}

// The values that must be the same in all URLs of a store.
struct CommonUrlParts {
    bool tls = false;
    bool has_database = false;
    std::uint32_t database = 0;
    std::string_view user;
    std::string_view password;
};

// The error if the URL has other values, or null.
const char *find_difference(const CommonUrlParts &common, const RedisUrl &url)
{
    if (url.tls != common.tls) {
        return "some URLs in \"redis\" have TLS (\"rediss://\") and some do not: all must have the "
               "same scheme";
    }

    if (url.has_database != common.has_database || url.database != common.database) {
        return "the URLs in \"redis\" have different databases: all must have the same";
    }

    if (url.user != common.user || url.password != common.password) {
        return "the URLs in \"redis\" have different credentials: all must have the same";
    }

    return nullptr;
}

bool add_unresolved_name(ngx_conf_t *cf, const StoreOptions &given, const RedisServer &server)
{
    auto *main = static_cast<MainConfig *>(
        ngx_http_conf_get_module_main_conf(cf, ngx_http_idempotency_module));
    auto *unresolved = static_cast<UnresolvedName *>(ngx_array_push(&main->unresolved_names));

    if (unresolved == nullptr) {
        return false;
    }

    *unresolved = {given.name, server.name, cf->conf_file->file.name, cf->conf_file->line};
    return true;
}

bool read_urls(ngx_conf_t *cf, StoreOptions &given, RedisOptions &options, CommonUrlParts &common)
{
    auto *texts = static_cast<ngx_str_t *>(given.urls.elts);
    auto *servers =
        static_cast<RedisServer *>(ngx_palloc(cf->pool, given.urls.nelts * sizeof(RedisServer)));

    if (servers == nullptr) {
        return false;
    }

    for (ngx_uint_t i = 0; i < given.urls.nelts; i++) {
        RedisUrl url;
        RedisServer *server = new (&servers[i]) RedisServer();
        const char *fault = read_redis_url(cf, texts[i], url, *server);

        if (fault != nullptr) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid URL in \"redis\" of store \"%V\": %s%s%V", &given.name,
                               fault, server->name.len > 0 ? ", " : "", &server->name);
            return false;
        }

        if (server->address_count == 0 && !add_unresolved_name(cf, given, *server)) {
            return false;
        }

        if (i == 0) {
            common = {url.tls, url.has_database, url.database, url.user, url.password};
        }

        const char *difference = find_difference(common, url);

        if (difference != nullptr) {
            return reject(cf, given, difference);
        }

        if (url.unix_socket && options.topology != RedisTopology::standalone) {
            return reject(cf, given,
                          "\"redis\" has a \"unix:\" URL, which is only valid with \"topology "
                          "standalone\": use \"redis://\" or \"rediss://\"");
        }
    }

    options.servers = servers;
    options.server_count = given.urls.nelts;
    return true;
}

// `what`: what the URL and the directive, or parameter, both have.
bool reject_duplicate(ngx_conf_t *cf, const StoreOptions &given, const char *what,
                      const char *directive)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "store \"%V\" has a %s in the URL of \"redis\" and in \"%s\": remove it "
                       "from the URL, or remove \"%s\"",
                       &given.name, what, directive, directive);
    return false;
}

bool apply_sentinel_credentials(ngx_conf_t *cf, const StoreOptions &given,
                                const CommonUrlParts &common, RedisOptions &options)
{
    if (given.sentinel_user.len > 0 && !common.user.empty()) {
        return reject_duplicate(cf, given, "user of the sentinels", "sentinel_user");
    }

    if (given.sentinel_password.len > 0 && !common.password.empty()) {
        return reject_duplicate(cf, given, "password of the sentinels", "sentinel_password_file");
    }

    options.sentinel_user = given.sentinel_user.len > 0 ? given.sentinel_user : to_ngx(common.user);
    options.sentinel_password =
        given.sentinel_password.len > 0 ? given.sentinel_password : to_ngx(common.password);

    return options.sentinel_user.len == 0 || options.sentinel_password.len > 0
           || reject(cf, given,
                     "the user of the sentinels has no password: set it with "
                     "\"sentinel_password_file\" in \"topology\", or in the URLs of \"redis\"");
}

// With sentinels, the URL and the parameters of `topology` have the credentials of the sentinels,
// and the directives have those of the master.
bool apply_credentials(ngx_conf_t *cf, const StoreOptions &given, const CommonUrlParts &common,
                       RedisOptions &options)
{
    options.user = given.user;
    options.password = given.password;

    if (options.topology == RedisTopology::sentinel) {
        return apply_sentinel_credentials(cf, given, common, options)
               && (options.user.len == 0 || options.password.len > 0
                   || reject(cf, given,
                             "the user of the master has no password: set it with \"password\" or "
                             "\"password_file\""));
    }

    if (given.user.len > 0 && !common.user.empty()) {
        return reject_duplicate(cf, given, "user", "user");
    }

    if (given.password.len > 0 && !common.password.empty()) {
        return reject_duplicate(cf, given, "password", given.password_directive);
    }

    if (!common.user.empty()) {
        options.user = to_ngx(common.user);
    }

    if (!common.password.empty()) {
        options.password = to_ngx(common.password);
    }

    return options.user.len == 0 || options.password.len > 0
           || reject(cf, given,
                     "the user has no password: set it with \"password\" or \"password_file\", or "
                     "in the URL of \"redis\"");
}

bool apply_database(ngx_conf_t *cf, const StoreOptions &given, const CommonUrlParts &common,
                    RedisOptions &options)
{
    if (given.database >= 0 && common.has_database) {
        return reject_duplicate(cf, given, "database", "database");
    }

    options.database =
        given.database >= 0 ? static_cast<ngx_uint_t>(given.database) : common.database;

    if (options.topology == RedisTopology::cluster && options.database != 0) {
        return reject(cf, given, "\"topology cluster\" is only valid with database 0");
    }

    return true;
}

bool apply_tls(ngx_conf_t *cf, const StoreOptions &given, const CommonUrlParts &common,
               RedisOptions &options)
{
    options.tls_to_sentinels = common.tls;
    options.tls_to_servers =
        given.master_ssl != NGX_CONF_UNSET ? given.master_ssl == 1 : common.tls;

    if (!options.tls_to_sentinels && !options.tls_to_servers) {
        if (given.tls_only == nullptr) {
            return true;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           options.topology == RedisTopology::sentinel
                               ? "\"%s\" in store \"%V\" is only valid with TLS: use URLs "
                                 "\"rediss://...\", or \"master_ssl=on\" in \"topology\" for TLS "
                                 "to the master alone"
                               : "\"%s\" in store \"%V\" is only valid with TLS: use a URL "
                                 "\"rediss://...\"",
                           given.tls_only, &given.name);
        return false;
    }

    if ((given.tls.certificate.len > 0) != (given.tls.certificate_key.len > 0)) {
        return reject(cf, given,
                      "\"ssl_certificate\" and \"ssl_certificate_key\" must be set together");
    }

    // the name to verify comes from sentinels that anybody in between can imitate
    if (options.tls_to_servers && !options.tls_to_sentinels
        && options.topology == RedisTopology::sentinel && given.tls.verify
        && given.tls.name.len == 0 && given.tls.trusted_certificate.len == 0)
    {
        ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                           "store \"%V\": without TLS to the sentinels, anyone in between can name "
                           "a master with a certificate of a public authority: set "
                           "\"ssl_trusted_certificate\" or \"ssl_name\"",
                           &given.name);
    }

    void *memory = ngx_palloc(cf->pool, sizeof(RedisTlsOptions));

    options.tls = memory != nullptr ? new (memory) RedisTlsOptions(given.tls) : nullptr;
    return options.tls != nullptr;
}

// The other directives replace the defaults.
void apply_other_directives(const StoreOptions &given, RedisOptions &options)
{
    if (given.prefix.len > 0) {
        options.prefix = given.prefix;
    }
    if (given.connections > 0) {
        options.connections = static_cast<ngx_uint_t>(given.connections);
    }
    if (given.connect_timeout > 0) {
        options.connect_timeout = static_cast<ngx_msec_t>(given.connect_timeout);
    }
    if (given.timeout > 0) {
        options.timeout = static_cast<ngx_msec_t>(given.timeout);
    }

    options.replicas = static_cast<ngx_uint_t>(given.replicas);
    options.replica_wait = static_cast<ngx_msec_t>(given.replica_wait);
}

void apply_resolver(ngx_conf_t *cf, RedisOptions &options)
{
    auto *core = static_cast<ngx_http_core_loc_conf_t *>(
        ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module));

    options.resolver = &core->resolver;
    options.resolver_timeout = &core->resolver_timeout;
}

}  // namespace

bool combine_redis_options(ngx_conf_t *cf, StoreOptions &given, RedisOptions &options)
{
    CommonUrlParts common;

    options.store = given.name;
    options.topology = given.topology;
    options.master = given.master;

    if (given.topology == RedisTopology::standalone && given.urls.nelts > 1) {
        return reject(cf, given,
                      "\"redis\" has several URLs: use one URL, or add "
                      "\"topology sentinel MASTER\" or \"topology cluster\"");
    }

    apply_other_directives(given, options);
    apply_resolver(cf, options);

    return read_urls(cf, given, options, common) && apply_credentials(cf, given, common, options)
           && apply_database(cf, given, common, options) && apply_tls(cf, given, common, options);
}

bool check_unresolved_names(ngx_conf_t *cf, const MainConfig &main)
{
    auto *core = static_cast<ngx_http_core_loc_conf_t *>(
        ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module));
    bool has_resolver = has_servers(core->resolver);
    auto *names = static_cast<UnresolvedName *>(main.unresolved_names.elts);

    for (ngx_uint_t i = 0; i < main.unresolved_names.nelts; i++) {
        UnresolvedName &name = names[i];

        if (has_resolver) {
            ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                          "host not found in \"redis\" of store \"%V\": %V: \"resolver\" will "
                          "resolve it at run time, in %V:%ui",
                          &name.store, &name.server, &name.file, name.line);
            continue;
        }

        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "invalid URL in \"redis\" of store \"%V\": host not found: %V; fix the "
                      "name, or add \"resolver\" to the http block, in %V:%ui",
                      &name.store, &name.server, &name.file, name.line);
        return false;
    }

    return true;
}

}  // namespace idempotency
