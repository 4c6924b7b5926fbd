"""The keys that providers know; Ray hands node_config on unread, so a misspelt one fails at the first node, or is silently nothing.

EC2: the parameters of RunInstances as boto3 1.44 has them, and SubnetIds, which Ray adds. Google: the fields of an instance in compute v1.
KubeRay: the fields of a RayJob as its reference and samples name them up to 1.7. Slurm: the long options of sbatch's manual.
"""

from typing import Any

ANY: dict[str, Any] = {}  # not looked into

_EBS = "DeleteOnTermination Iops SnapshotId VolumeSize VolumeType KmsKeyId Throughput OutpostArn AvailabilityZone Encrypted VolumeInitializationRate"
_TOP = """BlockDeviceMappings ImageId InstanceType Ipv6AddressCount Ipv6Addresses KernelId KeyName MaxCount MinCount Monitoring Placement RamdiskId
SecurityGroupIds SecurityGroups SubnetId SubnetIds UserData ElasticGpuSpecification ElasticInferenceAccelerators TagSpecifications LaunchTemplate
InstanceMarketOptions CreditSpecification CpuOptions CapacityReservationSpecification HibernationOptions LicenseSpecifications MetadataOptions
EnclaveOptions PrivateDnsNameOptions MaintenanceOptions DisableApiStop EnablePrimaryIpv6 NetworkPerformanceOptions Operator SecondaryInterfaces
DryRun DisableApiTermination InstanceInitiatedShutdownBehavior PrivateIpAddress ClientToken AdditionalInfo NetworkInterfaces IamInstanceProfile
EbsOptimized"""
_INTERFACE = """AssociatePublicIpAddress DeleteOnTermination Description DeviceIndex Groups Ipv6AddressCount Ipv6Addresses NetworkInterfaceId
PrivateIpAddress PrivateIpAddresses SecondaryPrivateIpAddressCount SubnetId AssociateCarrierIpAddress InterfaceType NetworkCardIndex Ipv4Prefixes
Ipv4PrefixCount Ipv6Prefixes Ipv6PrefixCount PrimaryIpv6 EnaSrdSpecification ConnectionTrackingSpecification EnaQueueCount"""


def _keys(words: str, **below: dict[str, Any]) -> dict[str, Any]:
    return {word: below.get(word, ANY) for word in words.split()}


AWS_NODE = _keys(
    _TOP,
    BlockDeviceMappings=_keys("Ebs NoDevice DeviceName VirtualName", Ebs=_keys(_EBS + " AvailabilityZoneId EbsCardIndex")),
    Placement=_keys(
        "AvailabilityZoneId Affinity GroupName PartitionNumber HostId Tenancy SpreadDomain HostResourceGroupArn GroupId AvailabilityZone"
    ),
    TagSpecifications=_keys("ResourceType Tags", Tags=_keys("Key Value")),
    LaunchTemplate=_keys("LaunchTemplateId LaunchTemplateName Version"),
    InstanceMarketOptions=_keys(
        "MarketType SpotOptions", SpotOptions=_keys("MaxPrice SpotInstanceType BlockDurationMinutes ValidUntil InstanceInterruptionBehavior")
    ),
    CpuOptions=_keys("CoreCount ThreadsPerCore AmdSevSnp NestedVirtualization"),
    MetadataOptions=_keys("HttpTokens HttpPutResponseHopLimit HttpEndpoint HttpProtocolIpv6 InstanceMetadataTags"),
    IamInstanceProfile=_keys("Arn Name"),
    NetworkInterfaces=_keys(_INTERFACE),
    Monitoring=_keys("MetricCategoryIds Enabled"),
)
IP_PERMISSION = _keys(
    "IpProtocol FromPort ToPort UserIdGroupPairs IpRanges Ipv6Ranges PrefixListIds",
    IpRanges=_keys("CidrIp Description"),
    Ipv6Ranges=_keys("CidrIpv6 Description"),
)
GCP_NODE = _keys(
    """name description machineType minCpuPlatform disks networkInterfaces metadata tags labels scheduling serviceAccounts guestAccelerators
    canIpForward deletionProtection shieldedInstanceConfig confidentialInstanceConfig displayDevice advancedMachineFeatures reservationAffinity
    resourcePolicies params hostname sourceMachineImage privateIpv6GoogleAccess networkPerformanceConfig keyRevocationActionType
    instanceEncryptionKey sourceInstanceTemplate acceleratorType acceleratorConfig runtimeVersion schedulingConfig networkConfig""",
    disks=_keys(
        """boot autoDelete type mode source deviceName interface initializeParams diskSizeGb diskEncryptionKey guestOsFeatures architecture
        forceAttach index kind licenses savedState shieldedInstanceInitialState""",
        initializeParams=_keys(
            """diskName sourceImage diskSizeGb diskType sourceImageEncryptionKey sourceSnapshot sourceSnapshotEncryptionKey labels description
            replicaZones resourcePolicies onUpdateAction provisionedIops provisionedThroughput licenses architecture resourceManagerTags
            enableConfidentialCompute storagePool"""
        ),
    ),
    scheduling=_keys(
        """onHostMaintenance automaticRestart preemptible nodeAffinities minNodeCpus locationHint provisioningModel instanceTerminationAction
        maxRunDuration terminationTime onInstanceStopAction localSsdRecoveryTimeout hostErrorTimeoutSeconds availabilityDomain
        skipGuestOsShutdown"""
    ),
    serviceAccounts=_keys("email scopes"),
    guestAccelerators=_keys("acceleratorType acceleratorCount"),
    metadata=_keys("items fingerprint kind", items=_keys("key value")),
    tags=_keys("items fingerprint"),
)
_EVERY_PROVIDER = """type module use_internal_ips use_external_head_ip cache_stopped_nodes disable_node_updaters disable_launch_config_check
foreground_node_launch worker_liveness_check worker_rpc_drain _config_cache_path """
PROVIDERS: dict[str, dict[str, Any]] = {
    "aws": _keys(
        _EVERY_PROVIDER + "region availability_zone security_group key_pair aws_credentials cloudwatch",
        security_group=_keys("GroupName IpPermissions", IpPermissions=IP_PERMISSION),
        key_pair=_keys("key_name"),
    ),
    "gcp": _keys(_EVERY_PROVIDER + "region availability_zone project_id gcp_credentials"),
    "local": _keys(_EVERY_PROVIDER + "head_ip worker_ips external_head_ip coordinator_address"),
}
NODES = {"aws": AWS_NODE, "gcp": GCP_NODE}

_RAY_CLUSTER = _keys(
    """suspend managedBy autoscalerOptions headServiceAnnotations enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec rayVersion
    workerGroupSpecs authOptions upgradeStrategy tlsOptions networkIsolation ttlSeconds""",
    autoscalerOptions=_keys("resources image imagePullPolicy securityContext idleTimeoutSeconds upscalingMode version env envFrom volumeMounts"),
    authOptions=_keys("mode secretName enableK8sTokenAuth"),
    headGroupSpec=_keys("template headService enableIngress resources labels rayStartParams serviceType"),
    workerGroupSpecs=_keys(
        """suspend groupName replicas minReplicas maxReplicas idleTimeoutSeconds resources labels rayStartParams template scaleStrategy numOfHosts"""
    ),
)
RAY_JOB = _keys(
    """activeDeadlineSeconds backoffLimit rayClusterSpec submitterPodTemplate metadata clusterSelector submitterConfig managedBy deletionStrategy
    entrypoint runtimeEnvYAML jobId submissionMode entrypointResources entrypointNumCpus entrypointNumGpus ttlSecondsAfterFinished
    shutdownAfterJobFinishes suspend preRunningDeadlineSeconds""",
    rayClusterSpec=_RAY_CLUSTER,
)

SBATCH = _keys(
    """account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment consolidate-segments constraint container container-id
    contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency distribution error exclude exclusive
    export export-file extra extra-node-info get-user-env gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags
    hint hold ignore-pbs input job-name kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus
    network nice no-kill no-requeue nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket oom-kill-step
    open-mode output overcommit oversubscribe parsable partition prefer priority profile propagate qos quiet reboot requeue reservation
    resv-ports segment signal sockets-per-node spread-job spread-segments stepmgr switches tasks-per-node test-only thread-spec threads-per-core
    time time-min tmp tres-bind tres-per-task uid use-min-nodes verbose wait wait-all-nodes wckey wrap"""
)
