// The directives about the module's own responses, and about who gets which of them.

#include "core/siphash.h"
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
        return reject_argument(cf, 1, "each code must be given once");
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
