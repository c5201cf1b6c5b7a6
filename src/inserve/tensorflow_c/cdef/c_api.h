typedef struct TF_Graph TF_Graph;
typedef struct TF_Operation TF_Operation;
typedef struct TF_Session TF_Session;
typedef struct TF_SessionOptions TF_SessionOptions;
typedef struct TF_DeviceList TF_DeviceList;
typedef struct TF_Library TF_Library;

typedef struct TF_Output {
  TF_Operation *oper;
  int index;
} TF_Output;

const char *TF_Version(void);

void TF_TensorFromProto(const TF_Buffer *from, TF_Tensor *to, TF_Status *status);

TF_Graph *TF_NewGraph(void);
void TF_DeleteGraph(TF_Graph *graph);
TF_Operation *TF_GraphOperationByName(TF_Graph *graph, const char *name);
int TF_OperationNumOutputs(TF_Operation *operation);
int TF_OperationOutputType(TF_Output output);

TF_SessionOptions *TF_NewSessionOptions(void);
void TF_SetConfig(TF_SessionOptions *options, const void *proto, size_t proto_len, TF_Status *status);
void TF_DeleteSessionOptions(TF_SessionOptions *options);

TF_Session *TF_NewSession(TF_Graph *graph, const TF_SessionOptions *options, TF_Status *status);
TF_Session *TF_LoadSessionFromSavedModel(const TF_SessionOptions *session_options,
                                         const TF_Buffer *run_options, const char *export_dir,
                                         const char *const *tags, int tags_len, TF_Graph *graph,
                                         TF_Buffer *meta_graph_def, TF_Status *status);
void TF_CloseSession(TF_Session *session, TF_Status *status);
void TF_DeleteSession(TF_Session *session, TF_Status *status);
void TF_SessionRun(TF_Session *session, const TF_Buffer *run_options, const TF_Output *inputs,
                   TF_Tensor *const *input_values, int num_inputs, const TF_Output *outputs,
                   TF_Tensor **output_values, int num_outputs,
                   const TF_Operation *const *target_operations, int num_targets,
                   TF_Buffer *run_metadata, TF_Status *status);

TF_DeviceList *TF_SessionListDevices(TF_Session *session, TF_Status *status);
void TF_DeleteDeviceList(TF_DeviceList *list);
int TF_DeviceListCount(const TF_DeviceList *list);
const char *TF_DeviceListName(const TF_DeviceList *list, int index, TF_Status *status);
const char *TF_DeviceListType(const TF_DeviceList *list, int index, TF_Status *status);
int64_t TF_DeviceListMemoryBytes(const TF_DeviceList *list, int index, TF_Status *status);

TF_Library *TF_LoadLibrary(const char *library_filename, TF_Status *status);
void TF_DeleteLibraryHandle(TF_Library *library);
