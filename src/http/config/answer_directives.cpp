// The directives about the module's own responses, the header that marks a replay, and limits for
// clients.

#include "core/siphash.h"
#include "core/token.h"
#include "http/config/arguments.h"
#include "http/config/directives.h"
#include "nginx/quota_segment.h"

namespace idempotency {

namespace {

constexpr char kCodes[] =
    "it must be the code of a response of this module: idempotency_key_missing, "
    "idempotency_scope_missing, idempotency_key_invalid, idempotency_key_reused, "
    "request_in_progress, outcome_unknown, response_not_kept, idempotency_quota_exceeded or "
    "store_unavailable";

// It is written into JSON and into a URI without escapes.
bool is_code(std::string_view text)
{
    for (char c : text) {
        bool is_letter_or_digit =
            (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');

        if (!is_letter_or_digit && c != '_' && c != '-' && c != '.') {
            return false;
        }
    }

    return !text.empty() && text.size() <= 64;
}

// Reads `50r/s` or `10r/m`.  Returns the microseconds for one, or 0.
std::uint64_t parse_rate(const ngx_str_t &text)
{
    constexpr std::size_t suffix = sizeof("r/s") - 1;

    if (text.len <= suffix) {
        return 0;
    }

    ngx_int_t number = ngx_atoi(text.data, text.len - suffix);
    std::string_view unit = view(text).substr(text.len - suffix);
    std::uint64_t period = unit == "r/s" ? 1000000 : unit == "r/m" ? 60000000 : 0;

    return number > 0 && number <= 1000000 ? period / static_cast<std::uint64_t>(number) : 0;
}

// Headers that say how to read the response, or which nginx or this module makes itself.
bool is_reserved_header(std::string_view name)
{
    static constexpr std::string_view names[] = {
        "Connection",
        "Content-Encoding",
        "Content-Length",
        "Content-Range",
        "Content-Type",
        "Date",
        "ETag",
        "Keep-Alive",
        "Last-Modified",
        "Location",
        "Server",
        "Set-Cookie",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "WWW-Authenticate",
    };

    if (equal_ignoring_case(name.substr(0, 8), "X-Accel-")) {
        return true;
    }

    for (std::string_view reserved : names) {
        if (equal_ignoring_case(name, reserved)) {
            return true;
        }
    }

    return false;
}

// A URI with a scheme, or an absolute path.  It is written into JSON and into a Link header without
// escapes.
bool is_uri(std::string_view text)
{
    for (char c : text) {
        if (c <= 0x20 || c >= 0x7f || std::string_view("\"<>\\^`{|}").find(c) != text.npos) {
            return false;
        }
    }

    std::size_t colon = text.find_first_of(":/?#");

    if (colon == std::string_view::npos || text[colon] != ':') {
        return text.substr(0, 1) == "/";
    }

    // RFC 3986, section 3.1
    for (std::size_t i = 0; i < colon; i++) {
        char lower = static_cast<char>(text[i] | 0x20);
        bool is_letter = lower >= 'a' && lower <= 'z';

        if (!is_letter
            && (i == 0
                || ((text[i] < '0' || text[i] > '9') && text[i] != '+' && text[i] != '-'
                    && text[i] != '.')))
        {
            return false;
        }
    }

    return colon > 0 && colon + 1 < text.size();
}

}  // namespace

char *set_quota(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);
    auto *main = static_cast<MainConfig *>(
        ngx_http_conf_get_module_main_conf(cf, ngx_http_idempotency_module));

    if (conf->quota != NGX_CONF_UNSET_PTR) {
        return duplicate();
    }

    if (equals(value[1], "off") && cf->args->nelts == 2) {
        conf->quota = nullptr;
        return ok();
    }

    if (cf->args->nelts == 2 || equals(value[1], "off")) {
        return reject_argument(cf, cf->args->nelts - 1,
                               "it must be \"VALUE RATE [burst=N]\", such as \"$remote_user 50r/s "
                               "burst=1000\", or \"off\" alone");
    }

    conf->quota = allocate<QuotaSource>(cf->pool);

    if (conf->quota == nullptr) {
        return failed();
    }

    QuotaSource &quota = *conf->quota;

    quota.value = compile_value(cf, &value[1]);

    if (quota.value == nullptr) {
        return failed();
    }

    if (!has_variable(*quota.value)) {
        return reject_argument(cf, 1, "it must be a value with a variable, such as $remote_user");
    }

    quota.limit.interval = parse_rate(value[2]);

    if (quota.limit.interval == 0) {
        return reject_argument(cf, 2,
                               "it must be a rate from 1 to 1000000 per second or per minute, such "
                               "as 50r/s or 10r/m");
    }

    if (cf->args->nelts == 4) {
        std::string_view text = after_prefix(value[3], "burst=");
        ngx_str_t digits = to_ngx(text);
        ngx_int_t burst = text.empty() ? NGX_ERROR : ngx_atoi(digits.data, digits.len);

        if (burst < 0 || burst > 1000000) {
            return reject_argument(cf, 3, "it must be burst=N, with N from 0 to 1000000");
        }

        quota.limit.tolerance = static_cast<std::uint64_t>(burst) * quota.limit.interval;
    }

    // directives that are equal share their counts
    quota.number = siphash({quota.limit.interval, quota.limit.tolerance}, view(value[1]));

    if (main->quota == nullptr) {
        main->quota = QuotaSegment::create(cf, &ngx_http_idempotency_module);
    }

    return main->quota != nullptr ? ok() : failed();
}

char *set_answer(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);
    Problem problem;

    if (conf->answers == NGX_CONF_UNSET_PTR) {
        conf->answers = allocate<AnswerOverride>(cf->pool, kProblems);

        if (conf->answers == nullptr) {
            return failed();
        }
    }

    if (!find_problem(view(value[1]), problem)) {
        return reject_argument(cf, 1, kCodes);
    }

    AnswerOverride &answer = conf->answers[static_cast<std::size_t>(problem)];

    if (answer.status != 0) {
        return reject_argument(cf, 1, "this code is given twice: remove one of them");
    }

    ngx_int_t status = ngx_atoi(value[2].data, value[2].len);

    if (status < 400 || status > 599) {
        return reject_argument(cf, 2, "it must be a status code from 400 to 599");
    }

    answer.status = static_cast<ngx_uint_t>(status);

    if (cf->args->nelts == 4) {
        std::string_view code = after_prefix(value[3], "code=");

        if (!is_code(code)) {
            return reject_argument(cf, 3,
                                   "it must be code=NAME, and NAME has 1 to 64 letters, digits, "
                                   "\"_\", \"-\" and \".\"");
        }

        // it is followed by a null character, as the argument is
        answer.code = code.data();
    }

    return ok();
}

char *set_replayed_header(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);

    if (conf->replayed_header.data != nullptr) {
        return duplicate();
    }

    if (!is_token(view(value[1])) || equals(value[1], "on")) {
        return reject_argument(cf, 1, "it must be the name of a header, or \"off\"");
    }

    if (is_reserved_header(view(value[1]))) {
        return reject_argument(cf, 1,
                               "it must be a header that no response has otherwise, such as "
                               "Idempotent-Replayed");
    }

    conf->replayed_header = value[1];

    if (equals(value[1], "off")) {
        conf->replayed_header.len = 0;
    }

    return ok();
}

char *set_problem_base(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);

    if (conf->problem_base.data != nullptr) {
        return duplicate();
    }

    if (!is_uri(view(value[1]))) {
        return reject_argument(cf, 1,
                               "it must be a URI with its scheme, such as "
                               "https://api.example.com/problems/, or a path that begins with "
                               "\"/\"");
    }

    conf->problem_base = value[1];
    return ok();
}

char *set_max_unsent(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *main = static_cast<MainConfig *>(data);

    if (main->max_unsent != NGX_CONF_UNSET_SIZE) {
        return duplicate();
    }

    off_t size = parse_size(arguments(cf)[1]);

    if (size <= 0) {
        return reject_argument(cf, 1,
                               "it must be a size above 0 with a unit of k, m or g, such as 128m");
    }

    main->max_unsent = static_cast<size_t>(size);
    return ok();
}

}  // namespace idempotency
