#include "cmocka.h"

#include <set>
#include <string>

#include "core/cause.h"

using namespace idempotency;

namespace {

UNIT_TEST(each_cause_has_a_name_of_its_own)
{
    std::set<std::string> names;

    for (std::size_t i = 0; i < kCauses; i++) {
        names.insert(cause_name(static_cast<Cause>(i)));
    }

    assert_int_equal(names.size(), kCauses);
    assert_string_equal(cause_name(Cause::none), "none");
    assert_string_equal(cause_name(Cause::error), "error");
    assert_string_equal(cause_name(Cause::no_memory), "no_memory");
}

UNIT_TEST(an_error_of_redis_is_named_by_its_code)
{
    const struct {
        const char *code;
        Cause cause;
    } codes[] = {
        {"OOM", Cause::oom},
        {"READONLY", Cause::readonly},
        {"NOPERM", Cause::noperm},
        {"NOAUTH", Cause::noauth},
        {"WRONGPASS", Cause::noauth},
        {"NOSCRIPT", Cause::noscript},
        {"MOVED", Cause::moved},
        {"ASK", Cause::moved},
        {"CLUSTERDOWN", Cause::moved},
        {"CROSSSLOT", Cause::moved},
        {"TRYAGAIN", Cause::moved},
        {"LOADING", Cause::loading},
        {"MASTERDOWN", Cause::loading},
        {"MISCONF", Cause::misconf},
        {"NOREPLICAS", Cause::replicas},
        {"WRONGTYPE", Cause::corrupt},
        {"ERR", Cause::error},
        {"", Cause::error},
        {"OOMX", Cause::error},
    };

    for (const auto &each : codes) {
        assert_true(cause_of_code(each.code) == each.cause);
    }
}

UNIT_TEST(a_value_that_is_refused_is_no_outage)
{
    const std::set<Cause> no_outage = {Cause::none, Cause::refused_value, Cause::corrupt,
                                       Cause::no_memory};
    const std::set<Cause> unreached = {Cause::timeout, Cause::connection, Cause::noauth,
                                       Cause::loading};

    for (std::size_t i = 0; i < kCauses; i++) {
        auto cause = static_cast<Cause>(i);

        assert_true(is_outage(cause) == (no_outage.count(cause) == 0));
        assert_true(is_connection_fault(cause) == (unreached.count(cause) != 0));
    }
}

}  // namespace
