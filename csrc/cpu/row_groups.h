// How a team of threads shares rows: one group of one thread for each share of the rows where there are
// enough of them, else one group of all threads, which then shares the panels of every linear layer.
#pragma once

#include <algorithm>

#include "body_pass.h"

namespace latent_ext {

// Fewer rows per thread leave a register tile half empty while every thread streams all weights.
constexpr int64_t kRowsPerThread = 16;
// Rows that pass through the layers together; their intermediate results stay near the core.
constexpr int64_t kPassRows = 128;

class RowGroups {
 public:
  RowGroups(int64_t rows, int threads)
      : threads_(std::max(1, threads)), by_rows_(rows >= threads * kRowsPerThread) {}

  int count() const { return by_rows_ ? threads_ : 1; }
  int members() const { return by_rows_ ? 1 : threads_; }
  int64_t most_rows(int64_t rows) const { return (rows + count() - 1) / count(); }
  int group_of(const Member& team) const { return by_rows_ ? team.rank : 0; }
  Member member_of(const Member& team) const { return by_rows_ ? Member{0, 1, nullptr} : team; }
  Share rows_of(int group, int64_t rows) const { return share_of(Member{group, count(), nullptr}, rows); }

  // body(member of the team) on every thread.
  template <class Body>
  void run(const Body& body) const {
    if (threads_ == 1) return body(Member{0, 1, nullptr});
    Barrier barrier(threads_);
    run_team(threads_, barrier, [&](int rank) { body(Member{rank, threads_, &barrier}); });
  }

 private:
  int threads_;
  bool by_rows_;
};

}  // namespace latent_ext
