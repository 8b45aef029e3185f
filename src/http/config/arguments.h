// Functions that all directives use for their arguments and errors.

#pragma once

#include "http/config/config.h"

namespace idempotency {

// The first is the name of the directive.
inline ngx_str_t *arguments(ngx_conf_t *cf) { return static_cast<ngx_str_t *>(cf->args->elts); }

inline char *failed() { return static_cast<char *>(NGX_CONF_ERROR); }

// Log that a value of a directive is invalid; `expected` says which values are valid.
// Both return NGX_CONF_ERROR.
char *reject_value(ngx_conf_t *cf, const ngx_str_t *directive, const ngx_str_t *value,
                   const char *expected);
char *reject_argument(ngx_conf_t *cf, ngx_uint_t argument, const char *expected);

inline char *ok() { return NGX_CONF_OK; }
inline char *duplicate() { return const_cast<char *>("is duplicate"); }

inline bool equals(const ngx_str_t &text, const char *word) { return view(text) == word; }

inline bool begins_with(const ngx_str_t &text, std::string_view prefix)
{
    return view(text).substr(0, prefix.size()) == prefix;
}

inline std::string_view after_prefix(const ngx_str_t &text, std::string_view prefix)
{
    return begins_with(text, prefix) ? view(text).substr(prefix.size()) : std::string_view();
}

// A word in the configuration, and its value.
struct Choice {
    const char *word;
    ngx_uint_t value;
};

// Sets `out` to the value of the word `text`.  False if there is no such word.
template <std::size_t N>
bool choose(const ngx_str_t &text, const Choice (&choices)[N], ngx_uint_t &out)
{
    for (const Choice &choice : choices) {
        if (equals(text, choice.word)) {
            out = choice.value;
            return true;
        }
    }

    return false;
}

// Sets `field` to the value of the first argument of the directive.
template <std::size_t N>
char *set_choice(ngx_conf_t *cf, const Choice (&choices)[N], ngx_uint_t &field,
                 const char *expected)
{
    if (field != NGX_CONF_UNSET_UINT) {
        return duplicate();
    }

    return choose(arguments(cf)[1], choices, field) ? ok() : reject_argument(cf, 1, expected);
}

// Null if the text is invalid or there is no memory; nginx has logged why.
ngx_http_complex_value_t *compile_value(ngx_conf_t *cf, ngx_str_t *text);

// Whether the value depends on the request.
inline bool has_variable(const ngx_http_complex_value_t &value) { return value.lengths != nullptr; }

// A scope without parts.  Null if there is no memory.
ScopeSource *create_scope(ngx_pool_t *pool);

// Appends a part.  False if `part` is null or there is no memory.
bool add_scope_part(ScopeSource &scope, ngx_http_complex_value_t *part);

// A size in bytes, also with a unit of k, m or g; NGX_ERROR if the text is no such size, or if it
// is too large for an address.
off_t parse_size(const ngx_str_t &text);

// For error messages: which times parse_time accepts, as a value and behind a "=".
constexpr char kValidTime[] =
    "it must be a time above 0 with a unit of ms, s, m, h, d or w, such as 500ms, 30s, 24h or 7d";
constexpr char kValidTimeAfterEqualsSign[] =
    "after \"=\" it must be a time above 0 with a unit of ms, s, m, h, d or w, such as 500ms, 30s, "
    "24h or 7d";

constexpr char kGivenTwice[] = "it is given twice: remove one of them";

// Logs that a location has both `idempotency_status` and `idempotency_admin`.  Returns
// NGX_CONF_ERROR.
char *reject_second_page(ngx_conf_t *cf);

// A time above 0, in milliseconds; NGX_ERROR if the text is not such a time.
ngx_int_t parse_time(ngx_str_t *text);

}  // namespace idempotency
