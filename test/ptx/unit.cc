// The machine on its own: short kernels, and what it must say of those that are wrong.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>

#include "../../native/core/dtypes.h"
#include "../../native/cuda/host/memory.h"
#include "machine.h"

using namespace fpl;
using namespace fpl::ptx;

namespace {

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  ++failures;
  printf("FAILED: %s\n", what.c_str());
}

// %r1 is the thread, %r2 the block, %rd1 the buffer, and %rd3 the place of 4 bytes there for each thread of a block.
std::string kernelOf(const std::string& body) {
  return ".version 9.5\n.target sm_90\n.address_size 64\n\n.entry k(\n\t.param .u64 k_param_0\n)\n.maxntid 256, 1, "
         "1\n{\n"
         ".reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<19>; .reg .f32 %f<9>; .reg .b64 %rd<9>; .reg .f64 %fd<9>;\n"
         ".shared .align 4 .b8 s[512];\n.local .align 4 .b8 depot[8];\n"
         "ld.param.u64 %rd1, [k_param_0];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, %ctaid.x;\n"
         "mul.wide.s32 %rd2, %r1, 4;\nadd.s64 %rd3, %rd1, %rd2;\n"
         "mov.u32 %r3, s;\nshl.b32 %r4, %r1, 2;\nadd.s32 %r5, %r3, %r4;\n" +
         body + "\nret;\n}\n";
}

struct Result {
  std::string fault;
  Counts counts;
  std::vector<uint32_t> words;
};

// On a buffer of a word a thread. Those before `written` hold 100 + their number, and the others nothing.
Result run(const std::string& text, int threads, int64_t blocks = 1, int written = 1 << 20) {
  Result result;
  result.words.resize(size_t(threads));
  for (int k = 0; k < threads; ++k) {
    result.words[size_t(k)] = k < written ? uint32_t(100 + k) : uint32_t(cuda::host::kFresh) * 0x10001u;
  }
  try {
    Module module("text", text);
    Machine machine(module);
    const uint64_t begin = uint64_t(1) << 48;
    char* data = reinterpret_cast<char*>(result.words.data());
    const std::string argument(reinterpret_cast<const char*>(&begin), sizeof begin);
    const Function* kernel = module.kernel("k");
    result.counts = machine.run(*kernel, blocks, threads, {argument}, {{begin, size_t(threads) * 4, data, true, {}}});
  } catch (const Fault& fault) {
    result.fault = fault.message;
  }
  return result;
}

void gives(const char* name, const std::string& body, int threads, const std::function<uint32_t(int)>& wanted) {
  const Result result = run(kernelOf(body), threads);
  expect(result.fault.empty(), std::string(name) + ": " + result.fault);
  for (int k = 0; k < threads && result.fault.empty(); ++k) {
    const uint32_t got = result.words[size_t(k)];
    expect(got == wanted(k), std::string(name) + ": thread " + std::to_string(k) + " has " + std::to_string(got));
  }
}

void refuses(const char* name, const char* problem, const std::string& body, int threads = 32, int64_t blocks = 1,
             int written = 1 << 20) {
  const Result result = run(kernelOf(body), threads, blocks, written);
  expect(result.fault.find(problem) != std::string::npos,
         std::string(name) + (result.fault.empty() ? ": not refused" : ": " + result.fault));
}

void testControl() {
  gives("threads", "st.global.u32 [%rd3], %r1;", 70, [](int k) { return uint32_t(k); });
  // The lanes meet again: all of them take part in the exchange.
  const char* exchange = "shfl.sync.down.b32 %r9|%p2, %r8, 1, 31, -1;\nst.global.u32 [%rd3], %r9;";
  gives("a branch",
        std::string("and.b32 %r7, %r1, 1;\nsetp.eq.s32 %p1, %r7, 0;\n@%p1 bra $even;\nadd.s32 %r8, %r1, 1000;\n"
                    "bra.uni $both;\n$even:\nadd.s32 %r8, %r1, 2000;\n$both:\n") +
            exchange,
        64, [](int k) {
          const int from = k % 32 == 31 ? k : k + 1;
          return uint32_t(from + (from % 2 ? 1000 : 2000));
        });
  gives("a loop",
        std::string("mov.u32 %r8, 0;\nmov.u32 %r7, 0;\n$again:\nadd.s32 %r8, %r8, 3;\nadd.s32 %r7, %r7, 1;\n"
                    "setp.le.s32 %p1, %r7, %r1;\n@%p1 bra $again;\n") +
            exchange,
        32, [](int k) { return uint32_t(3 * ((k == 31 ? k : k + 1) + 1)); });
  gives("an early end", "setp.gt.s32 %p1, %r1, 4;\n@%p1 ret;\nst.global.u32 [%rd3], 7;", 32,
        [](int k) { return k > 4 ? uint32_t(100 + k) : 7u; });
  gives("shared memory behind a barrier",
        "st.shared.u32 [%r5], %r1;\nbar.sync 0;\nxor.b32 %r7, %r4, 252;\nadd.s32 %r8, %r3, %r7;\n"
        "ld.shared.u32 %r9, [%r8];\nst.global.u32 [%rd3], %r9;",
        64, [](int k) { return uint32_t(63 - k); });
  gives("an atomic", "setp.gt.s32 %p1, %r1, 39;\n@%p1 bra $end;\natom.global.add.u32 %r7, [%rd1], 2;\n$end:", 64,
        [](int k) { return uint32_t(100 + k + (k == 0 ? 80 : 0)); });
  const std::string function =
      ".func  (.param .b32 func_retval0) twice(\n\t.param .b32 twice_param_0\n)\n{\n.reg .b32 %r<5>; .reg .pred "
      "%p<2>;\n"
      "ld.param.u32 %r1, [twice_param_0];\nsetp.gt.s32 %p1, %r1, 9;\n@%p1 bra $more;\nadd.s32 %r2, %r1, %r1;\n"
      "st.param.b32 [func_retval0+0], %r2;\nret;\n$more:\nst.param.b32 [func_retval0+0], 5;\nret;\n}\n\n";
  const Result called =
      run(function + kernelOf("{\n.param .b32 param0;\nst.param.b32 [param0+0], %r1;\n.param .b32 retval0;\n"
                              "call.uni (retval0),\ntwice,\n(\nparam0\n);\nld.param.b32 %r7, [retval0+0];\n }\n"
                              "st.global.u32 [%rd3], %r7;"),
          32);
  expect(called.fault.empty(), "a call: " + called.fault);
  for (int k = 0; k < 32; ++k) expect(called.words[size_t(k)] == uint32_t(k > 9 ? 5 : 2 * k), "a call");
}

void testRefusals() {
  refuses("an unknown opcode", "text:21: unknown opcode sin.approx.f32", "sin.approx.f32 %f1, %f2;");
  refuses("an unknown form of a known one", "unknown opcode ld.global.cv.u32", "ld.global.cv.u32 %r7, [%rd3];");
  refuses("behind the end", "reach out of global memory", "st.global.v2.u32 [%rd1+128], {%r1, %r1};\n", 33);
  refuses("far away", "outside of global memory", "st.global.u32 [%rd3+4096], %r1;");
  refuses("an odd address", "not a multiple of 4", "ld.global.u32 %r7, [%rd3+2];");
  refuses("beyond shared memory", "outside of shared memory", "st.shared.u32 [%r5+512], %r1;");
  refuses("beyond its own memory", "outside of the thread's own memory",
          "mov.u64 %rd7, depot;\nst.local.u32 [%rd7+8], %r1;");
  refuses("fresh global memory", "global memory that nobody has written", "ld.global.u32 %r7, [%rd3];", 32, 1, 31);
  refuses("fresh shared memory", "shared memory that nobody has written", "ld.shared.u32 %r7, [%r5];");
  refuses("shared memory of the block before", "shared memory that nobody has written",
          "setp.ne.s32 %p1, %r2, 0;\n@%p1 bra $load;\nst.shared.u32 [%r5], %r1;\n$load:\nld.shared.u32 %r7, [%r5];", 32,
          2);
  refuses("fresh memory of its own", "memory of its own that it has not written",
          "mov.u64 %rd7, depot;\nst.local.u32 [%rd7], %r1;\nld.local.u32 %r7, [%rd7+4];");
  const std::string write = "st.shared.u32 [%r5], %r1;\n", read = "xor.b32 %r7, %r4, 4;\nadd.s32 %r8, %r3, %r7;\n";
  refuses("a race in a warp", "reads what thread 1 of block 0 writes in shared memory",
          write + read + "ld.shared.u32 %r9, [%r8];");
  refuses("a race between warps", "writes what thread 1 of block 0 reads in shared memory",
          write + "bar.sync 0;\n" + read + "ld.shared.u32 %r9, [%r8];\nst.shared.u32 [%r3], %r9;");
  refuses("two writers", "writes what thread 0 of block 0 writes in shared memory", "st.shared.u32 [%r3], 1;");
  refuses("a race between blocks", "of block 0 writes in global memory", "st.global.u32 [%rd3], %r2;", 32, 2);
  refuses("a write over what another block has read", "of block 0 reads in global memory",
          "setp.ne.s32 %p1, %r2, 0;\n@%p1 bra $store;\nld.global.u32 %r7, [%rd3];\nbra.uni $end;\n"
          "$store:\nst.global.u32 [%rd3], 0;\n$end:",
          32, 2);
  refuses("a barrier for some lanes", "not all threads of the warp come to the barrier",
          "setp.gt.s32 %p1, %r1, 5;\n@%p1 bra $end;\nbar.sync 0;\n$end:");
  refuses("a barrier for some warps", "not all warps of the block come to this barrier",
          "setp.gt.s32 %p1, %r1, 31;\n@%p1 bra $end;\nbar.sync 0;\n$end:", 64);
  refuses("two barriers", "not all warps of the block come to this barrier",
          "setp.gt.s32 %p1, %r1, 31;\n@%p1 bra $other;\nbar.sync 0;\nbra.uni $end;\n$other:\nbar.sync 0;\n$end:", 64);
  refuses("an exchange of some lanes", "not all lanes that take part are there",
          "setp.gt.s32 %p1, %r1, 5;\n@%p1 bra $end;\nshfl.sync.down.b32 %r7, %r1, 1, 31, -1;\n$end:");
  refuses("a value of a lane that is gone", "asks lane 6, which is not there",
          "setp.gt.s32 %p1, %r1, 5;\n@%p1 bra $end;\nshfl.sync.down.b32 %r7, %r1, 1, 31, 63;\n$end:");
  refuses("a loop without an end", "no way leads out", "$again:\nbra.uni $again;");
}

// Thread 1 of each of three blocks writes a word, thread 0 counts the block, and thread `reader` of the last one adds
// the words up.
std::string counted(const std::string& atomic, const std::string& before, const std::string& behind,
                    const std::string& late, const std::string& reader) {
  const std::string write =
      "mul.wide.s32 %rd4, %r2, 4;\nadd.s64 %rd5, %rd1, %rd4;\nadd.s32 %r8, %r2, 7;\n"
      "setp.ne.s32 %p1, %r1, 1;\n@%p1 bra $WRITTEN;\nst.global.u32 [%rd5], %r8;\n$WRITTEN:\n";
  const auto named = [](std::string text, const std::string& name) {
    for (size_t at; (at = text.find("WRITTEN")) != std::string::npos;) text.replace(at, 7, name);
    return text;
  };
  return (late.empty() ? named(write, "written") : "") + before + "setp.ne.s32 %p2, %r1, 0;\n@%p2 bra $counted;\n" +
         atomic + " %r7, [%rd1+124], 133;\nst.shared.u32 [%r3], %r7;\n$counted:\n" +
         (late.empty() ? "" : named(write, "late")) + behind + "setp.ne.s32 %p3, %r1, " + reader +
         ";\n@%p3 bra $end;\nld.shared.u32 %r7, [%r3];\n"
         "setp.ne.s32 %p4, %r7, 133;\n@%p4 bra $end;\nld.global.u32 %r9, [%rd1];\nld.global.u32 %r10, [%rd1+4];\n"
         "add.s32 %r9, %r9, %r10;\nld.global.u32 %r10, [%rd1+8];\nadd.s32 %r9, %r9, %r10;\n"
         "st.global.u32 [%rd1+12], %r9;\n$end:";
}

void testOrder() {
  const std::string ordered = "atom.acq_rel.gpu.global.inc.u32", relaxed = "atom.global.inc.u32",
                    barrier = "bar.sync 0;\n";
  for (const char* reader : {"0", "5"}) {
    const Result result = run(kernelOf(counted(ordered, barrier, barrier, "", reader)), 32, 3);
    expect(result.fault.empty(), "blocks in order: " + result.fault);
    expect(result.words[3] == 7 + 8 + 9 && result.words[31] == 0,
           "blocks in order: " + std::to_string(result.words[3]));
  }
  const char* const race = "reads what thread 1 of block 0 writes in global memory";
  refuses("an atomic that orders nothing", race, counted(relaxed, barrier, barrier, "", "0"), 32, 3);
  refuses("no barrier before the atomic", race, counted(ordered, "", barrier, "", "0"), 32, 3);
  refuses("a write behind the atomic", race, counted(ordered, barrier, barrier, "late", "0"), 32, 3);
  // Thread 5 knows nothing without a barrier; nor may it look at what thread 0 has put into shared memory.
  refuses("no barrier behind the atomic", "reads what thread 0 of block 0 writes in shared memory",
          counted(ordered, barrier, "", "", "5"), 32, 3);
  std::string unseen = counted(ordered, barrier, "", "", "5");
  unseen.replace(unseen.find("ld.shared.u32 %r7, [%r3];"), 25, "add.s32 %r7, %r2, 131;");
  refuses("no barrier behind the atomic, with a guess", race, unseen, 32, 3);
}

// What `body` leaves of %r7.
void computes(const char* body, uint32_t wanted) {
  gives(body, std::string(body) + "\nst.global.u32 [%rd3], %r7;", 1, [=](int) { return wanted; });
}

void testArithmetic() {
  computes("mov.f32 %f1, 0f7FC12345; add.rn.f32 %f2, %f1, %f1; mov.b32 %r7, %f2;", 0x7fffffff);
  computes("mov.f32 %f1, 0f7FC12345; max.f32 %f2, %f1, 0fBF800000; mov.b32 %r7, %f2;", 0xbf800000);
  computes("mov.f32 %f1, 0f80000000; max.f32 %f2, %f1, 0f00000000; mov.b32 %r7, %f2;", 0);
  // (1 + 2^-23)² less 1 + 2^-22, which the square would be if it were rounded first.
  computes("mov.f32 %f1, 0f3F800001; fma.rn.f32 %f2, %f1, %f1, 0fBF800002; mov.b32 %r7, %f2;", 0x28800000);
  computes("mov.f32 %f1, 0f80000000; copysign.f32 %f2, %f1, 0f40000000; mov.b32 %r7, %f2;", 0xc0000000);
  computes("mov.f64 %fd1, 0d4202A05F20000000; cvt.rzi.s32.f64 %r7, %fd1;", 0x7fffffff);
  computes("mov.f64 %fd1, 0dFFF8000000000000; cvt.rzi.s32.f64 %r7, %fd1;", 0);
  computes("mov.f64 %fd1, 0dBFFE666666666666; cvt.rzi.s32.f64 %r7, %fd1;", uint32_t(-1));
  computes("mov.f64 %fd1, 0d4004000000000000; cvt.rni.f64.f64 %fd2, %fd1; cvt.rzi.s32.f64 %r7, %fd2;", 2);
  computes("mov.f32 %f1, 0f3F808000; mov.f32 %f2, 0f3F818000; { cvt.rn.bf16x2.f32 %r7, %f1, %f2;}", 0x3f803f82);
  computes("mov.f32 %f1, 0f477FF000; mov.f32 %f2, 0f7FC12345; { cvt.rn.f16x2.f32 %r7, %f1, %f2; }", 0x7c007fff);
  computes("mov.u32 %r8, 0x11223344; shf.r.wrap.b32 %r7, %r8, 0x55667788, 40;", 0x88112233);
  computes("mov.u32 %r8, 0x11223344; prmt.b32 %r7, %r8, 0x55667788, 4180;", 0x33447788);
  computes("mov.b64 %rd7, {1, 2}; shr.u64 %rd8, %rd7, 32; cvt.u32.u64 %r7, %rd8;", 2);
  computes("mov.u64 %rd7, 5; bfi.b64 %rd8, %rd7, 0, 4, 2; cvt.u32.u64 %r7, %rd8;", 16);
  computes("mov.u32 %r8, 1; shl.b32 %r7, %r8, 32;", 0);
  computes("mov.u32 %r8, -8; shr.s32 %r7, %r8, 99;", ~0u);
  computes("mov.u32 %r8, -7; div.s32 %r7, %r8, 2;", uint32_t(-3));
  computes("mov.u64 %rd7, -1; mul.hi.u64 %rd8, %rd7, %rd7; cvt.u32.u64 %r7, %rd8;", uint32_t(-2));
  computes("mov.f64 %fd1, 0d7FF8000000000000; setp.ne.f64 %p1, %fd1, %fd1; selp.b32 %r7, 1, 0, %p1;", 0);
  computes("mov.f64 %fd1, 0d7FF8000000000000; setp.neu.f64 %p1, %fd1, %fd1; selp.b32 %r7, 1, 0, %p1;", 1);
  computes("mov.f32 %f1, 0f00400000; rcp.approx.ftz.f32 %f2, %f1; mov.b32 %r7, %f2;", 0x7f800000);
  computes("mov.f32 %f1, 0f40400000; ex2.approx.ftz.f32 %f2, %f1; mov.b32 %r7, %f2;", 0x41000000);
  computes("st.shared.u32 [%r5], -2; ld.shared.s32 %rd7, [%r5]; shr.u64 %rd8, %rd7, 32; cvt.u32.u64 %r7, %rd8;", ~0u);
}

void testCounts() {
  // Eight instructions before, one load, one store, and the return.
  const Result result = run(kernelOf("ld.global.u32 %r7, [%rd3];\nst.global.u32 [%rd3], %r7;"), 48);
  expect(result.fault.empty(), "counts: " + result.fault);
  expect(result.counts.instructions == 48 * 11, "instructions: " + std::to_string(result.counts.instructions));
  expect(result.counts.warpInstructions == 2 * 11, "instructions of warps");
  expect(result.counts.loaded == 48 * 4 && result.counts.stored == 48 * 4, "bytes");
  expect(result.counts.sectors == 2 * 6, "sectors: " + std::to_string(result.counts.sectors));
}

}  // namespace

int main() {
  testControl();
  testRefusals();
  testOrder();
  testArithmetic();
  testCounts();
  if (failures > 0) return 1;
  printf("the machine for PTX: all checks passed\n");
}
