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

// The table of the contract.
UNIT_TEST(each_problem_has_a_grpc_status)
{
    const struct {
        Problem problem;
        int status;  // https://grpc.io/docs/guides/status-codes/
    } table[] = {
        {Problem::key_missing, 3},        {Problem::scope_missing, 3},
        {Problem::key_invalid, 3},        {Problem::key_reused, 9},
        {Problem::in_progress, 10},       {Problem::outcome_unknown, 9},
        {Problem::response_not_kept, 9},  {Problem::quota_exceeded, 8},
        {Problem::store_unavailable, 14}, {Problem::response_incomplete, 2},
    };

    assert_int_equal(sizeof(table) / sizeof(table[0]), kProblems);

    for (const auto &row : table) {
        assert_int_equal(grpc_status_of(row.problem), row.status);
    }
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
