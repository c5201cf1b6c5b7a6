typedef struct TF_Status TF_Status;

TF_Status *TF_NewStatus(void);
void TF_DeleteStatus(TF_Status *status);
int TF_GetCode(const TF_Status *status);
const char *TF_Message(const TF_Status *status);
