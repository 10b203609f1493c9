#include "module.h"

#include <cxxabi.h>
#include <dirent.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>

#include "meetings.h"

namespace fpl {
namespace ptx {
namespace {

struct Token {
  std::string text;
  int line;
};

bool isWord(char c) { return isalnum(static_cast<unsigned char>(c)) || strchr("_$%.", c); }

std::vector<Token> tokensOf(const std::string& text, int line) {
  std::vector<Token> tokens;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '\n') ++line;
    if (isspace(static_cast<unsigned char>(c))) {
      ++at;
    } else if (c == '/' && text.compare(at, 2, "//") == 0) {
      at = std::min(text.find('\n', at), text.size());
    } else if (c == '"') {
      const size_t end = text.find('"', at + 1) + 1;
      tokens.push_back({text.substr(at, end - at), line});
      at = end;
    } else {
      size_t end = at;
      while (end < text.size() && isWord(text[end])) ++end;
      if (end == at) ++end;
      tokens.push_back({text.substr(at, end - at), line});
      at = end;
    }
  }
  return tokens;
}

std::vector<std::string> split(const std::string& text, char by) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, by);) parts.push_back(part);
  return parts;
}

// Bytes of a type such as f32; 0 for what is none.
int bytesOf(const std::string& type) {
  static const std::map<std::string, int> known = {
      {"b8", 1},  {"u8", 1},  {"s8", 1},  {"b16", 2}, {"u16", 2}, {"s16", 2}, {"f16", 2}, {"b32", 4},
      {"u32", 4}, {"s32", 4}, {"f32", 4}, {"b64", 8}, {"u64", 8}, {"s64", 8}, {"f64", 8},
  };
  const auto found = known.find(type);
  return found == known.end() ? 0 : found->second;
}

int64_t aligned(int64_t offset, int64_t alignment) { return (offset + alignment - 1) / alignment * alignment; }

// Reads one function.
class Parser {
 public:
  Parser(const std::string& file, const std::string& text, int line, const std::map<std::string, Table>& tables)
      : tables_(tables), tokens_(tokensOf(text, line)) {
    function_.file = file;
  }

  Function function() {
    header();
    expect("{");
    for (int depth = 1; depth > 0;) {
      if (accept("}")) {
        --depth;
      } else if (accept("{")) {
        ++depth;
      } else {
        statement();
      }
    }
    for (Instruction& i : function_.code) {
      if (i.kind != Instruction::kBranch) continue;
      const auto found = labels_.find(i.callee);
      if (found == labels_.end()) refuse("no label " + i.callee, i.line);
      i.target = found->second;
      i.callee.clear();
    }
    findMeetings(function_);
    return std::move(function_);
  }

 private:
  [[noreturn]] void refuse(const std::string& problem, int line) const {
    throw Fault{function_.file + ":" + std::to_string(line) + ": " + problem};
  }
  const Token& peek(int ahead = 0) const {
    static const Token end{"", 0};
    return at_ + ahead < tokens_.size() ? tokens_[at_ + ahead] : end;
  }
  Token next() {
    if (at_ == tokens_.size()) refuse("the text ends too soon", tokens_.empty() ? 0 : tokens_.back().line);
    return tokens_[at_++];
  }
  bool accept(const char* text) {
    if (peek().text != text) return false;
    ++at_;
    return true;
  }
  void expect(const char* text) {
    if (!accept(text)) refuse("'" + peek().text + "' in the place of '" + text + "'", peek().line);
  }
  int64_t integer() {
    const bool negative = accept("-");
    const Token token = next();
    char* end;
    const uint64_t value = strtoull(token.text.c_str(), &end, 0);
    const bool whole = *end == 0 || strcmp(end, "U") == 0;
    if (end == token.text.c_str() || !whole) refuse("no number: " + token.text, token.line);
    return negative ? -int64_t(value) : int64_t(value);
  }

  // .space .align N .type name[N], which takes its place at the end of what is there.
  Symbol declare(Space space, int64_t& end) {
    int64_t alignment = 0, bytes = 0;
    while (peek().text[0] == '.') {
      const Token token = next();
      if (token.text == ".align") {
        alignment = integer();
      } else {
        bytes = bytesOf(token.text.substr(1));
        if (bytes == 0) refuse("unknown type " + token.text, token.line);
      }
    }
    const std::string name = next().text;
    end = aligned(end, std::max(alignment, bytes));
    if (accept("[")) {
      bytes *= integer();
      expect("]");
    }
    const Symbol symbol{space, end, bytes};
    end += bytes;
    symbols_[name] = symbol;
    return symbol;
  }

  void header() {
    while (peek().text == ".visible" || peek().text == ".weak") next();
    const Token kind = next();
    function_.isKernel = kind.text == ".entry";
    if (accept("(")) {
      expect(".param");
      function_.result = declare(Space::kVariables, function_.variableBytes);
      expect(")");
    }
    function_.name = next().text;
    if (accept("(")) {
      while (!accept(")")) {
        accept(",");
        expect(".param");
        function_.parameters.push_back(function_.isKernel ? declare(Space::kArguments, function_.argumentBytes)
                                                          : declare(Space::kVariables, function_.variableBytes));
      }
    }
    while (peek().text != "{") next();  // .maxntid and the like
  }

  void statement() {
    const Token& first = peek();
    if (peek(1).text == ":") {
      labels_[next().text] = int(function_.code.size());
      next();
      return;
    }
    if (first.text == ".reg") return registers();
    if (first.text[0] == '.') {
      const Token kind = next();
      if (kind.text == ".pragma") {
        next();
      } else if (kind.text == ".shared") {
        declare(Space::kShared, function_.sharedBytes);
      } else if (kind.text == ".local") {
        declare(Space::kLocal, function_.localBytes);
      } else if (kind.text == ".param") {
        declare(Space::kVariables, function_.variableBytes);
      } else {
        refuse("unknown directive " + kind.text, kind.line);
      }
      return expect(";");
    }
    instruction();
  }

  // Names are unique in a function, or mean nothing beyond their braces; so the same name may be the same register.
  void registers() {
    next();
    next();
    do {
      const std::string name = next().text;
      if (accept("<")) {
        const int64_t count = integer();
        expect(">");
        for (int64_t k = 0; k < count; ++k) registerNamed(name + std::to_string(k));
      } else {
        registerNamed(name);
      }
    } while (accept(","));
    expect(";");
  }
  int registerNamed(const std::string& name) { return registers_.emplace(name, int(registers_.size())).first->second; }

  int constant(uint64_t value) {
    const auto [found, isNew] = constants_.emplace(value, int(function_.constants.size()));
    if (isNew) {
      function_.constants.emplace_back();
      function_.constants.back().fill(value);
    }
    return ~found->second;
  }
  int special(const Special& special) {
    const int number = registerNamed("special " + std::to_string(special.kind) + " " + std::to_string(special.offset));
    const auto same = [&](const auto& known) { return known.first == number; };
    if (std::none_of(function_.specials.begin(), function_.specials.end(), same)) {
      function_.specials.push_back({number, special});
    }
    return number;
  }

  // A register, a number, or the address of a symbol.
  int operand() {
    const Token& token = peek();
    const auto known = registers_.find(token.text);
    if (known != registers_.end()) {
      next();
      return known->second;
    }
    static const std::map<std::string, Special::Kind> specials = {{"%tid.x", Special::kThread},
                                                                  {"%ctaid.x", Special::kBlock},
                                                                  {"%ntid.x", Special::kThreads},
                                                                  {"%nctaid.x", Special::kBlocks}};
    if (const auto found = specials.find(token.text); found != specials.end()) {
      next();
      return special({found->second, 0});
    }
    if (token.text.size() > 2 && token.text[0] == '0' && (token.text[1] == 'f' || token.text[1] == 'd')) {
      return constant(strtoull(next().text.c_str() + 2, nullptr, 16));
    }
    if (const auto symbol = symbols_.find(token.text); symbol != symbols_.end()) {
      next();
      if (symbol->second.space == Space::kLocal) return special({Special::kLocal, symbol->second.offset});
      return constant(uint64_t(symbol->second.offset));
    }
    if (const auto table = tables_.find(function_.file + " " + token.text); table != tables_.end()) {
      next();
      return constant(reinterpret_cast<uint64_t>(table->second.bytes.data()));
    }
    if (token.text == "-" || isdigit(static_cast<unsigned char>(token.text[0]))) return constant(uint64_t(integer()));
    refuse("unknown operand " + token.text, token.line);
  }

  void add(Instruction& i, int operand) {
    if (i.count == Instruction::kMost) refuse(i.opcode + " with too many operands", i.line);
    i.operands[i.count++] = operand;
  }
  // One, or several in braces; how many.
  int group(Instruction& i) {
    if (!accept("{")) return add(i, operand()), 1;
    int count = 0;
    do {
      add(i, operand());
      ++count;
    } while (accept(","));
    expect("}");
    return count;
  }

  // [base + offset]
  void address(Instruction& i) {
    expect("[");
    const auto symbol = symbols_.find(peek().text);
    if (symbol != symbols_.end()) {
      i.space = symbol->second.space;
      i.offset = symbol->second.offset;
      if (i.space == Space::kLocal) i.base = special({Special::kLocal, 0});
      next();
    } else {
      if (i.space == Space::kVariables) i.space = Space::kArguments;
      const int base = operand();
      if (base >= 0) {
        i.base = base;
      } else {
        i.offset = int64_t(function_.constants[~base][0]);
      }
    }
    if (accept("+")) i.offset += integer();
    expect("]");
  }

  // ld and st: .space, caching, .v2 or .v4, .type.
  void memory(Instruction& i, std::vector<std::string> parts) {
    static const std::map<std::string, Space> spaces = {
        {"global", Space::kGlobal}, {"shared", Space::kShared}, {"local", Space::kLocal}, {"param", Space::kVariables}};
    const auto unknown = [&] { refuse("unknown opcode " + i.opcode, i.line); };
    i.kind = parts[0] == "ld" ? Instruction::kLoad : Instruction::kStore;
    size_t at = 1;
    const auto part = [&] { return at < parts.size() ? parts[at] : std::string(); };
    const auto space = spaces.find(part());
    if (space == spaces.end()) unknown();
    i.space = space->second;
    ++at;
    if (i.space == Space::kGlobal && (part() == "cs" || (part() == "nc" && parts[0] == "ld"))) ++at;
    if (part() == "v2" || part() == "v4") i.elements = parts[at++][1] - '0';
    i.bytes = bytesOf(part());
    i.isSigned = part()[0] == 's';
    if (i.bytes == 0 || at + 1 != parts.size()) unknown();
    // Half a place of those that `cells` of memory.h keep.
    if (i.kind == Instruction::kStore && i.bytes == 1 && i.space != Space::kLocal) unknown();
    if (i.kind == Instruction::kStore) {
      address(i);
      expect(",");
      if (group(i) != i.elements) unknown();
    } else {
      if (group(i) != i.elements) unknown();
      expect(",");
      address(i);
    }
  }

  void call(Instruction& i) {
    i.kind = Instruction::kCall;
    const auto variables = [&](std::vector<Symbol>& out) {
      expect("(");
      while (!accept(")")) {
        accept(",");
        const Token name = next();
        const auto found = symbols_.find(name.text);
        if (found == symbols_.end()) refuse("unknown variable " + name.text, name.line);
        out.push_back(found->second);
      }
    };
    std::vector<Symbol> results;
    if (peek().text == "(") {
      variables(results);
      expect(",");
    }
    if (!results.empty()) i.result = results[0];
    i.callee = next().text;
    if (accept(",")) variables(i.arguments);
  }

  void instruction() {
    Instruction i;
    if (accept("@")) {
      i.unless = accept("!");
      i.guard = operand();
    }
    const Token name = next();
    i.opcode = name.text;
    i.line = name.line;
    const std::vector<std::string> parts = split(i.opcode, '.');
    if (i.opcode == "ret") {
      i.kind = Instruction::kReturn;
    } else if (i.opcode == "bra" || i.opcode == "bra.uni") {
      i.kind = Instruction::kBranch;
      i.callee = next().text;
    } else if (i.opcode == "call.uni") {
      call(i);
    } else if (i.opcode == "bar.sync") {
      i.kind = Instruction::kBarrier;
      if (integer() != 0) refuse("bar.sync of another barrier than 0", i.line);
    } else if (i.opcode == "shfl.sync.down.b32") {
      i.kind = Instruction::kShuffleDown;
      add(i, operand());
      if (accept("|")) i.target = operand();
      while (accept(",")) add(i, operand());
      if (i.count != 5) refuse("shfl with " + std::to_string(i.count) + " operands", i.line);
    } else if (parts[0] == "atom") {
      static const std::map<std::string, uint32_t (*)(uint32_t, uint32_t)> updates = {
          {"global.add.u32", [](uint32_t old, uint32_t more) { return old + more; }},
          {"global.inc.u32", [](uint32_t old, uint32_t most) { return old >= most ? 0 : old + 1; }}};
      const std::string ordered = "atom.acq_rel.gpu.";
      i.kind = Instruction::kAtomic;
      i.isOrdered = i.opcode.compare(0, ordered.size(), ordered) == 0;
      const auto found = updates.find(i.opcode.substr(i.isOrdered ? ordered.size() : parts[0].size() + 1));
      if (found == updates.end()) refuse("unknown opcode " + i.opcode, i.line);
      i.update = found->second;
      i.bytes = 4;
      add(i, operand());
      expect(",");
      address(i);
      expect(",");
      add(i, operand());
    } else if (parts[0] == "ld" || parts[0] == "st") {
      memory(i, parts);
    } else if (parts[0] == "cvta") {
      // Addresses are those of their space, and the generic ones are, too: no load and no store with those is known.
      i.compute = computes().at("mov.b64");
      add(i, operand());
      expect(",");
      add(i, operand());
    } else {
      const int results = group(i);
      int count = 0;
      while (accept(",")) count = std::max(count, group(i));
      const char* form = results > 1 ? " unpack" : count > 1 ? " pack" : "";
      const auto found = computes().find(i.opcode + form);
      if (found == computes().end()) refuse("unknown opcode " + i.opcode + form, i.line);
      i.compute = found->second;
      if (i.count != i.compute.operands) refuse(i.opcode + " with other operands than known", i.line);
      for (int k = 0; k < results; ++k) {
        if (i.operands[k] < 0) refuse(i.opcode + " into a constant", i.line);
      }
    }
    expect(";");
    function_.registers = int(registers_.size());
    function_.code.push_back(std::move(i));
  }

  const std::map<std::string, Table>& tables_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  Function function_;
  std::unordered_map<std::string, int> registers_, labels_;
  std::unordered_map<std::string, Symbol> symbols_;
  std::unordered_map<uint64_t, int> constants_;
};

}  // namespace

std::string demangled(const std::string& name) {
  int status;
  char* text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  const std::string out = text ? text : name;
  free(text);
  return out;
}

std::string withoutParameters(const std::string& name) {
  if (name.empty() || name.back() != ')') return name;
  int depth = 0;
  for (size_t at = name.size(); at-- > 0;) {
    depth += (name[at] == ')') - (name[at] == '(');
    if (depth == 0) return name.substr(0, at);
  }
  return name;
}

Module::Module(const std::string& folder) {
  std::vector<std::string> files;
  if (DIR* directory = opendir(folder.c_str())) {
    while (const dirent* entry = readdir(directory)) {
      const std::string name = entry->d_name;
      if (name.size() > 4 && name.compare(name.size() - 4, 4, ".ptx") == 0) files.push_back(name);
    }
    closedir(directory);
  }
  if (files.empty()) throw Fault{folder + ": no PTX"};
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) {
    std::ifstream stream(folder + "/" + file);
    add(file, std::string(std::istreambuf_iterator<char>(stream), {}));
  }
}

// Definitions begin with a directive at the beginning of a line. Functions end with } at the beginning of a line.
void Module::add(const std::string& file, const std::string& text) {
  Source source;
  bool isOpen = false;
  int line = 0;
  for (size_t at = 0; at < text.size(); ++line) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string row = text.substr(at, end - at);
    at = end + 1;
    static const char* const passed[] = {".version", ".target", ".address_size"};
    if (source.text.empty()) {
      const auto begins = [&](const char* directive) { return row.rfind(directive, 0) == 0; };
      if (row[0] != '.' || std::any_of(std::begin(passed), std::end(passed), begins)) continue;
      source = {file, "", "", line + 1, false};
    }
    source.text += row + "\n";
    isOpen = isOpen || row[0] == '{';
    if (isOpen ? row[0] != '}' : row.find(';') == std::string::npos) continue;
    const std::vector<Token> tokens = tokensOf(source.text.substr(0, source.text.find(isOpen ? "\n{" : "{")), 0);
    if (isOpen) {
      for (size_t k = 0; k < tokens.size() && source.name.empty(); ++k) {
        if (tokens[k].text != ".entry" && tokens[k].text != ".func") continue;
        source.isKernel = tokens[k].text == ".entry";
        // Behind the result, if there is one.
        while (tokens[k + 1].text == "(" || tokens[k].text == "(") {
          while (tokens[k].text != ")") ++k;
        }
        source.name = tokens[k + 1].text;
      }
      const std::string name = withoutParameters(demangled(source.name));
      if (source.isKernel && !demangled_.emplace(name, file + " " + source.name).second) {
        throw Fault{"two kernels are called " + name};
      }
      sources_[file + " " + source.name] = source;
    } else if (std::any_of(tokens.begin(), tokens.end(), [](const Token& t) { return t.text == ".global"; })) {
      Table& table = tables_[file + " " + tokens[tokens.size() - 5].text];
      for (const Token& token : tokensOf(source.text.substr(source.text.find('{')), 0)) {
        if (isdigit(static_cast<unsigned char>(token.text[0]))) table.bytes.push_back(char(atoi(token.text.c_str())));
      }
      // Zeros at the end are left out.
      const size_t bytes = size_t(atoll(tokens[tokens.size() - 3].text.c_str()));
      if (table.bytes.size() > bytes) throw Fault{file + ":" + std::to_string(source.line) + ": not a table of bytes"};
      table.bytes.resize(bytes);
    }
    source = {};
    isOpen = false;
  }
}

std::vector<std::string> Module::kernels() const {
  std::vector<std::string> names;
  for (const auto& entry : demangled_) names.push_back(entry.first);
  return names;
}

const Function* Module::function(const std::string& name, const std::string& file) {
  const std::string key = file + " " + name;
  const auto source = sources_.find(key);
  if (source == sources_.end()) return nullptr;
  std::unique_ptr<Function>& function = functions_[key];
  if (!function) {
    Parser parser(file, source->second.text, source->second.line, tables_);
    function = std::make_unique<Function>(parser.function());
  }
  return function.get();
}

const Function* Module::kernel(const std::string& name) {
  const auto found = demangled_.find(name);
  if (found == demangled_.end()) return nullptr;
  const Source& source = sources_.at(found->second);
  return function(source.name, source.file);
}

}  // namespace ptx
}  // namespace fpl
