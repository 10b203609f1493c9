#include "meetings.h"

#include <algorithm>

namespace fpl {
namespace ptx {
namespace {

// Instructions that are carried out one after the other, and where it goes on behind them.
struct Piece {
  int begin;
  std::vector<int> next, previous;
};

std::vector<Piece> piecesOf(const Function& function) {
  const auto& code = function.code;
  const int end = int(code.size());
  std::vector<bool> begins(code.size() + 1, false);
  begins[0] = begins[end] = true;
  for (int at = 0; at < end; ++at) {
    if (code[at].kind == Instruction::kBranch) begins[code[at].target] = true;
    if (code[at].kind == Instruction::kBranch || code[at].kind == Instruction::kReturn) begins[at + 1] = true;
  }
  std::vector<Piece> pieces;
  std::vector<int> pieceAt(code.size() + 1);
  for (int at = 0; at <= end; ++at) {
    if (begins[at]) pieces.push_back({at, {}, {}});
    pieceAt[at] = int(pieces.size()) - 1;
  }
  // The last one is the end, where returns lead.
  const int last = int(pieces.size()) - 1;
  for (int p = 0; p < last; ++p) {
    const Instruction& i = code[pieces[p + 1].begin - 1];
    const bool goesOn = (i.kind != Instruction::kBranch && i.kind != Instruction::kReturn) || i.guard >= 0;
    if (goesOn) pieces[p].next.push_back(p + 1);
    if (i.kind == Instruction::kBranch) pieces[p].next.push_back(pieceAt[i.target]);
    if (i.kind == Instruction::kReturn) pieces[p].next.push_back(last);
    for (const int n : pieces[p].next) pieces[n].previous.push_back(p);
  }
  return pieces;
}

}  // namespace

// Cooper, Harvey and Kennedy's algorithm for dominators, from the end backwards.
void findMeetings(Function& function) {
  const std::vector<Piece> pieces = piecesOf(function);
  const int last = int(pieces.size()) - 1;
  // Pieces in the order in which a search from the end leaves them.
  std::vector<int> order, rank(pieces.size(), -1);
  std::vector<bool> seen(pieces.size(), false);
  std::vector<std::pair<int, size_t>> path = {{last, 0}};
  seen[last] = true;
  while (!path.empty()) {
    auto& [piece, done] = path.back();
    if (done < pieces[piece].previous.size()) {
      const int previous = pieces[piece].previous[done++];
      if (!seen[previous]) path.push_back({previous, 0});
      seen[previous] = true;
    } else {
      rank[piece] = int(order.size());
      order.push_back(piece);
      path.pop_back();
    }
  }
  std::vector<int> meeting(pieces.size(), -1);
  meeting[last] = last;
  const auto common = [&](int a, int b) {
    while (a != b) {
      while (rank[a] < rank[b]) a = meeting[a];
      while (rank[b] < rank[a]) b = meeting[b];
    }
    return a;
  };
  for (bool changes = true; changes;) {
    changes = false;
    for (auto at = order.rbegin() + 1; at != order.rend(); ++at) {
      int found = -1;
      for (const int next : pieces[*at].next) {
        if (meeting[next] >= 0) found = found < 0 ? next : common(found, next);
      }
      changes = changes || meeting[*at] != found;
      meeting[*at] = found;
    }
  }
  for (int p = 0; p < last; ++p) {
    Instruction& i = function.code[pieces[p + 1].begin - 1];
    if (i.kind != Instruction::kBranch) continue;
    if (meeting[p] >= 0) i.meeting = pieces[meeting[p]].begin;
  }
}

}  // namespace ptx
}  // namespace fpl
