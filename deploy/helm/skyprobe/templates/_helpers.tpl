{{- define "skyprobe.name" -}}
{{- if contains "skyprobe" .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-skyprobe" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "skyprobe.selector" -}}
app.kubernetes.io/name: skyprobe
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "skyprobe.labels" -}}
{{ include "skyprobe.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "skyprobe.account" -}}
{{- .Values.serviceAccount.name | default (include "skyprobe.name" .) -}}
{{- end -}}

{{- define "skyprobe.priorityClass" -}}
{{- if or .Values.priorityClass.create .Values.priorityClass.name -}}
{{- .Values.priorityClass.name | default (include "skyprobe.name" .) -}}
{{- end -}}
{{- end -}}
