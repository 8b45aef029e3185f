#include "cmocka.h"

#include <cstring>
#include <string>

#include "core/problem.h"

using namespace idempotency;

namespace {

UNIT_TEST(each_problem_is_found_by_its_code)
{
    Problem found;

    for (std::size_t i = 0; i < kProblems; i++) {
        auto problem = static_cast<Problem>(i);
        const ProblemText &text = default_problem_text(problem);

        assert_true(find_problem(text.code, found));
        assert_true(
            found
            == (problem == Problem::response_incomplete ? Problem::outcome_unknown : problem));
        assert_non_null(error_status_line(text.status));
        assert_true(std::string(text.title).find_first_of("\"\\") == std::string::npos);
        assert_true(std::string(text.detail).find_first_of("\"\\") == std::string::npos);
    }

    assert_false(find_problem("", found));
    assert_false(find_problem("conflict", found));
    assert_int_equal(default_problem_text(Problem::quota_exceeded).status, 429);
    assert_int_equal(default_problem_text(Problem::response_incomplete).status, 502);
}

UNIT_TEST(a_status_has_its_phrase)
{
    assert_string_equal(error_status_line(409), "409 Conflict");
    assert_string_equal(error_status_line(422), "422 Unprocessable Content");
    assert_string_equal(error_status_line(511), "511 Network Authentication Required");
    assert_null(error_status_line(418));
    assert_null(error_status_line(399));
    assert_null(error_status_line(600));
}

}  // namespace
