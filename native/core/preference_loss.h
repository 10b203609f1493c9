// Stage 3: the preference loss of P pairs and its derivative with respect to every sequence's log-prob.
#pragma once

#include "job.h"

namespace fpl {

void preferenceLoss(PreferenceLoss& stage);

}  // namespace fpl
