#include "cmocka.h"

#include <set>
#include <string>

#include "core/claim_ids.h"

using namespace idempotency;

namespace {

UNIT_TEST(ids_of_all_processes_differ)
{
    std::set<std::string> seen;

    for (int process = 0; process < 100; process++) {
        ClaimIdSource ids;

        assert_true(ids.seed());
        for (int i = 0; i < 100; i++) {
            assert_true(seen.insert(std::string(ids.next().view())).second);
        }
    }
}

}  // namespace
