// Which responses end where clients that do not read hold more memory than the limit.

#include "cmocka.h"

#include <vector>

#include "core/unsent.h"

using namespace idempotency;

namespace {

constexpr std::size_t kLimit = 1000;

struct TestResponse : UnsentResponse {
    std::uint64_t taken = 0;
};

std::vector<UnsentResponse *> ended;

std::uint64_t sent(const UnsentResponse &response)
{
    return static_cast<const TestResponse &>(response).taken;
}

void end(UnsentResponse &response) { ended.push_back(&response); }

struct Fixture {
    Fixture() { ended.clear(); }

    UnsentResponses responses{kLimit, {sent, end}};
    TestResponse a{}, b{}, c{}, d{};
};

UNIT_TEST(nothing_ends_below_the_limit)
{
    Fixture f;

    assert_true(f.responses.has_space(kLimit));
    f.responses.add(f.a, 500, 1, 0);
    assert_true(f.responses.has_space(500) && !f.responses.has_space(501));
    assert_true(f.responses.make_space(500, 2, 0));
    f.responses.add(f.b, 500, 2, 0);
    assert_true(ended.empty());
    assert_int_equal(f.responses.held(), 1000);

    f.responses.remove(f.a);
    f.responses.remove(f.b);
    f.responses.remove(f.b);
    assert_int_equal(f.responses.held(), 0);
}

UNIT_TEST(the_response_of_the_heaviest_caller_that_has_stalled_ends)
{
    Fixture f;

    f.responses.add(f.a, 300, 1, 0);
    f.responses.add(f.b, 300, 2, 0);
    f.responses.add(f.c, 300, 2, 0);
    f.b.taken = 10;  // makes progress
    assert_true(f.responses.make_space(200, 3, 10));
    assert_true(ended == std::vector<UnsentResponse *>{&f.c});
    assert_int_equal(f.responses.held(), 600);
    assert_int_equal(f.responses.ending(), 300);

    f.responses.remove(f.c);
    assert_int_equal(f.responses.ending(), 0);
    f.responses.add(f.d, 200, 3, 10);
    assert_int_equal(f.responses.held(), 800);
}

UNIT_TEST(a_caller_waits_for_its_own_responses_that_are_new)
{
    Fixture f;

    f.responses.add(f.a, 600, 1, 0);
    assert_false(f.responses.make_space(600, 1, UnsentResponses::kGrace - 1));
    assert_true(ended.empty());

    // it has read
    f.a.taken = 1;
    assert_false(f.responses.make_space(600, 1, UnsentResponses::kGrace));
    assert_false(f.responses.make_space(600, 1, 2 * UnsentResponses::kGrace - 1));

    // it has stopped to read
    assert_true(f.responses.make_space(600, 1, 2 * UnsentResponses::kGrace));
    assert_true(ended == std::vector<UnsentResponse *>{&f.a});
}

UNIT_TEST(another_caller_does_not_wait)
{
    Fixture f;

    f.responses.add(f.a, 600, 1, 0);
    f.a.taken = 1;
    assert_true(f.responses.make_space(600, 2, 0));
    assert_true(ended == std::vector<UnsentResponse *>{&f.a});
}

// What ends keeps its memory for a while: it is bounded too.
UNIT_TEST(what_ends_is_bounded)
{
    Fixture f;

    f.responses.add(f.a, 500, 1, 0);
    assert_true(f.responses.make_space(600, 2, 0));
    f.responses.add(f.b, 600, 2, 0);

    assert_false(f.responses.make_space(100, 1, 0));  // 500 of this caller are ending
    assert_true(f.responses.make_space(400, 3, 0));
    f.responses.add(f.c, 400, 3, 0);
    assert_int_equal(f.responses.held() + f.responses.ending(), 1500);
    assert_false(f.responses.make_space(1, 4, 0));
    assert_true(ended == std::vector<UnsentResponse *>{&f.a});

    f.responses.remove(f.a);
    assert_true(f.responses.make_space(401, 4, 0));
}

UNIT_TEST(what_arrives_from_the_store_is_bounded)
{
    Fixture f;

    assert_true(f.responses.start_loading(2000, 1));  // one is always possible
    assert_false(f.responses.start_loading(1, 2));
    f.responses.end_loading(2000, 1);
    assert_true(f.responses.start_loading(200, 1) && f.responses.start_loading(50, 1));
    assert_false(f.responses.start_loading(1, 1));
    assert_true(f.responses.start_loading(250, 2));
    assert_false(f.responses.start_loading(1, 3));
    assert_int_equal(f.responses.loading(), 500);
    assert_true(f.responses.has_space(kLimit));
    f.responses.end_loading(50, 1);
    assert_true(f.responses.start_loading(50, 3));
}

// The first response to a request is never refused.
UNIT_TEST(a_response_is_added_whatever_the_others_do)
{
    Fixture f;

    f.responses.add(f.a, 600, 1, 0);
    f.responses.add(f.b, 2000, 1, 0);
    assert_true(ended == std::vector<UnsentResponse *>{&f.a});
    assert_int_equal(f.responses.held(), 2000);
    f.responses.add(f.c, 10, 2, 0);
    assert_int_equal(f.responses.held(), 10);
    f.responses.remove(f.b);
    f.responses.remove(f.a);
    f.responses.remove(f.c);
    assert_int_equal(f.responses.held() + f.responses.ending(), 0);
}

// All of them have made progress: the search ends.
UNIT_TEST(many_responses_that_make_progress)
{
    Fixture f;
    TestResponse many[50]{};

    for (TestResponse &response : many) {
        f.responses.add(response, 20, 1, 0);
    }

    for (TestResponse &response : many) {
        response.taken = 1;
    }

    assert_true(f.responses.make_space(20, 2, 5));
    assert_int_equal(ended.size(), 1);
    assert_true(ended[0] == &many[16]);
}

// One client comes as many callers, each of which holds less than a caller that is read.
UNIT_TEST(what_is_not_read_ends_before_the_response_of_a_caller_that_has_little)
{
    Fixture f;
    TestResponse many[8]{};

    for (std::size_t i = 0; i < 8; i++) {
        f.responses.add(many[i], 100, 10 + i, 0);
    }

    f.responses.add(f.a, 200, 1, 0);
    f.a.taken = 10;
    assert_true(f.responses.make_space(100, 30, UnsentResponses::kGrace));
    assert_true(ended == std::vector<UnsentResponse *>{&many[0]});

    // all have made progress
    f.responses.add(f.b, 100, 30, UnsentResponses::kGrace);

    for (TestResponse &response : many) {
        response.taken = 1;
    }

    assert_true(f.responses.make_space(100, 31, UnsentResponses::kGrace + 1));
    assert_true(ended.back() == &f.a);
}

}  // namespace
