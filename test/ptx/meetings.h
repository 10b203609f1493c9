// Where the lanes of a warp that went different ways at a branch meet again.
#pragma once

#include "module.h"

namespace fpl {
namespace ptx {

// Sets `meeting` of each branch: the first instruction that all ways from it lead to (its immediate post-dominator),
// or the end of the code; -1 where no way leads to the end.
void findMeetings(Function& function);

}  // namespace ptx
}  // namespace fpl
