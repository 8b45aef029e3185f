// The block `idempotency_store NAME { ... }`.

#include <new>

#include "http/store_options.h"
#include "store/ngx_memory_store.h"

namespace idempotency {

namespace {

ngx_str_t *arguments(ngx_conf_t *cf) { return static_cast<ngx_str_t *>(cf->args->elts); }

char *failed() { return static_cast<char *>(NGX_CONF_ERROR); }

char *refuse(ngx_conf_t *cf, ngx_uint_t argument, const char *expected)
{
    return refuse_value(cf, &arguments(cf)[0], &arguments(cf)[argument], expected);
}

char *read_memory(ngx_conf_t *cf, StoreOptions &options)
{
    off_t size = ngx_parse_offset(&arguments(cf)[1]);

    if (size == NGX_ERROR || size < kSmallestSegment) {
        return refuse(cf, 1, "a size of at least 256k is needed, such as 64m");
    }

    options.memory = size;
    return NGX_CONF_OK;
}

char *read_url(ngx_conf_t *cf, StoreOptions &options)
{
    if (cf->args->nelts > 2) {
        return refuse(cf, 2, "one URL is needed: several servers are not supported yet");
    }

    options.url = arguments(cf)[1];

    return options.url.len > 0 ? NGX_CONF_OK
                              : refuse(cf, 1, "a URL is needed, such as redis://127.0.0.1:6379/0");
}

char *read_user(ngx_conf_t *cf, StoreOptions &options)
{
    options.user = arguments(cf)[1];
    return options.user.len > 0 ? NGX_CONF_OK : refuse(cf, 1, "the name of a user is needed");
}

char *refuse_second_password(ngx_conf_t *cf, StoreOptions &options)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "store \"%V\" has both \"password\" and \"password_file\": one is needed",
                       &options.name);
    return failed();
}

// A password is never repeated in an error.
char *read_password(ngx_conf_t *cf, StoreOptions &options)
{
    if (options.password.len > 0) {
        return refuse_second_password(cf, options);
    }

    options.password = arguments(cf)[1];

    if (options.password.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid value in \"password\": it is empty");
        return failed();
    }

    return NGX_CONF_OK;
}

// The first line of a file.
char *read_password_file(ngx_conf_t *cf, StoreOptions &options)
{
    ngx_str_t name = arguments(cf)[1];
    u_char room[1024];

    if (options.password.len > 0) {
        return refuse_second_password(cf, options);
    }

    if (ngx_conf_full_name(cf->cycle, &name, 1) != NGX_OK) {
        return failed();
    }

    ngx_fd_t fd = ngx_open_file(name.data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "\"password_file\" can't open \"%V\"", &name);
        return failed();
    }

    ssize_t n = ngx_read_fd(fd, room, sizeof(room));
    size_t length = 0;

    while (n > 0 && length < static_cast<size_t>(n) && room[length] != '\n' && room[length] != '\r') {
        length++;
    }

    (void) ngx_close_file(fd);

    if (length == 0 || length == sizeof(room)) {
        return refuse(cf, 1, "a file with the password in its first line is needed, "
                             "of less than 1024 bytes");
    }

    ngx_str_t text;
    text.data = room;
    text.len = length;

    options.password.data = ngx_pstrdup(cf->pool, &text);
    options.password.len = length;
    ngx_explicit_memzero(room, sizeof(room));
    return options.password.data != nullptr ? NGX_CONF_OK : failed();
}

char *read_number(ngx_conf_t *cf, ngx_int_t &field, ngx_int_t least, ngx_int_t most,
                  const char *expected)
{
    field = ngx_atoi(arguments(cf)[1].data, arguments(cf)[1].len);

    return field >= least && field <= most ? NGX_CONF_OK : refuse(cf, 1, expected);
}

char *read_database(ngx_conf_t *cf, StoreOptions &options)
{
    return read_number(cf, options.database, 0, 65535, "a number from 0 to 65535 is needed");
}

char *read_connections(ngx_conf_t *cf, StoreOptions &options)
{
    return read_number(cf, options.connections, 1, 64, "a number from 1 to 64 is needed");
}

char *read_time(ngx_conf_t *cf, ngx_int_t &field)
{
    field = parse_time(&arguments(cf)[1]);

    return field != NGX_ERROR ? NGX_CONF_OK
                              : refuse(cf, 1, "a time above 0 is needed, such as 500ms or 1s");
}

char *read_connect_timeout(ngx_conf_t *cf, StoreOptions &options)
{
    return read_time(cf, options.connect_timeout);
}

char *read_timeout(ngx_conf_t *cf, StoreOptions &options) { return read_time(cf, options.timeout); }

char *read_prefix(ngx_conf_t *cf, StoreOptions &options)
{
    options.prefix = arguments(cf)[1];

    return options.prefix.len > 0 && options.prefix.len <= 128
               ? NGX_CONF_OK : refuse(cf, 1, "1 to 128 characters are needed");
}

struct BlockDirective {
    const char *name;
    ngx_uint_t most;            // arguments; one is needed
    bool redis_only;
    char *(*read)(ngx_conf_t *cf, StoreOptions &options);
};

constexpr BlockDirective kBlockDirectives[] = {
    {"memory", 1, false, read_memory},
    {"redis", NGX_CONF_MAX_ARGS, false, read_url},
    {"user", 1, true, read_user},
    {"password", 1, true, read_password},
    {"password_file", 1, true, read_password_file},
    {"database", 1, true, read_database},
    {"connections", 1, true, read_connections},
    {"connect_timeout", 1, true, read_connect_timeout},
    {"timeout", 1, true, read_timeout},
    {"prefix", 1, true, read_prefix},
};

constexpr std::size_t kBlockDirectiveCount = sizeof(kBlockDirectives) / sizeof(kBlockDirectives[0]);

char *read_known(ngx_conf_t *cf, StoreOptions &options, std::size_t number)
{
    const BlockDirective &directive = kBlockDirectives[number];
    ngx_str_t *value = arguments(cf);

    if (cf->args->nelts < 2 || cf->args->nelts - 1 > directive.most) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid number of arguments in \"%V\" of store \"%V\"", &value[0],
                           &options.name);
        return failed();
    }

    if ((options.seen >> number & 1) != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "duplicate directive \"%V\" in store \"%V\"",
                           &value[0], &options.name);
        return failed();
    }

    options.seen |= 1u << number;

    if (directive.redis_only) {
        options.redis_only = directive.name;
    }

    return directive.read(cf, options);
}

// nginx's cf->handler: called for each directive of the block.
char *read_directive(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *options = static_cast<StoreOptions *>(data);

    for (std::size_t i = 0; i < kBlockDirectiveCount; i++) {
        if (view(arguments(cf)[0]) == kBlockDirectives[i].name) {
            return read_known(cf, *options, i);
        }
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "unknown directive \"%V\" in store \"%V\"",
                       &arguments(cf)[0], &options->name);
    return failed();
}

bool has_valid_name(const ngx_str_t &name)
{
    return name.len > 0 && view(name) != "off";
}

StoreSlot *add_slot(ngx_conf_t *cf, MainConfig *main, const ngx_str_t &name, Store *store)
{
    auto *slot = allocate<StoreSlot>(cf->pool);
    void *leases = ngx_palloc(cf->pool, sizeof(LeaseKeeper));
    auto **place = static_cast<StoreSlot **>(ngx_array_push(&main->stores));

    if (slot == nullptr || leases == nullptr || place == nullptr) {
        return nullptr;
    }

    slot->name = name;
    slot->store = store;
    slot->leases = new (leases) LeaseKeeper(*store);
    *place = slot;
    return slot;
}

}  // namespace

char *store_block(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *main = static_cast<MainConfig *>(data);
    StoreOptions options{};

    options.name = arguments(cf)[1];
    options.database = -1;

    if (!has_valid_name(options.name)) {
        return refuse(cf, 1, "a name other than \"off\" is needed");
    }

    if (find_store(main, &options.name) != nullptr) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "duplicate store \"%V\" in \"idempotency_store\": each needs a name "
                           "of its own", &options.name);
        return failed();
    }

    ngx_conf_t outer = *cf;

    cf->handler = read_directive;
    cf->handler_conf = reinterpret_cast<char *>(&options);

    char *result = ngx_conf_parse(cf, nullptr);

    *cf = outer;

    if (result != NGX_CONF_OK) {
        return result;
    }

    Store *store = create_store(cf, options);

    return store != nullptr && add_slot(cf, main, options.name, store) != nullptr ? NGX_CONF_OK
                                                                               : failed();
}

}  // namespace idempotency
