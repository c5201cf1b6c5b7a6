typedef struct LogEntry {
  uintptr_t full_filename[2];
  uintptr_t base_filename[2];
  int line;
  _Bool prefix;
  int severity;
  int verbose_level;
  uint32_t timestamp[3];
  int thread_id;
  const char *text;
  size_t text_length;
  size_t prefix_length;
} LogEntry;

typedef struct LogSink LogSink;

typedef struct LogSinkTable {
  ptrdiff_t offset_to_top;
  void *type_info;
  void (*complete_destructor)(LogSink *sink);
  void (*deleting_destructor)(LogSink *sink);
  void (*send)(LogSink *sink, const LogEntry *entry);
  void (*flush)(LogSink *sink);
  void (*key_function)(LogSink *sink);
} LogSinkTable;

struct LogSink {
  void *methods;
};

void _ZN4absl12lts_2025081412log_internal10AddLogSinkEPNS0_7LogSinkE(LogSink *sink);
void _ZN4absl12lts_2025081412log_internal13RemoveLogSinkEPNS0_7LogSinkE(LogSink *sink);
_Bool _ZN4absl12lts_2025081412log_internal13IsInitializedEv(void);
void _ZN4absl12lts_2025081412log_internal14SetInitializedEv(void);
int _ZN4absl12lts_2025081415StderrThresholdEv(void);
void _ZN4absl12lts_2025081418SetStderrThresholdENS0_18LogSeverityAtLeastE(int severity);
